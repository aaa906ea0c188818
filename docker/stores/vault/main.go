// Vault as `vault server -dev` has it, made from its Go modules where its own program can't be had: the core, the HTTP
// API, policies, tokens, the KV engine, AppRole, userpass, JWT and Kubernetes are Vault's; only this start of them is ours.
// In memory, unsealed, KV version 2 at secret/, VAULT_DEV_ROOT_TOKEN_ID for root. It takes no arguments.
package main

import (
	"context"
	"errors"
	"log"
	"net/http"
	"os"

	"github.com/hashicorp/go-hclog"
	authjwt "github.com/hashicorp/vault-plugin-auth-jwt"
	authkubernetes "github.com/hashicorp/vault-plugin-auth-kubernetes"
	kv "github.com/hashicorp/vault-plugin-secrets-kv"
	"github.com/hashicorp/vault/builtin/credential/approle"
	"github.com/hashicorp/vault/builtin/credential/userpass"
	"github.com/hashicorp/vault/helper/namespace"
	vaulthttp "github.com/hashicorp/vault/http"
	"github.com/hashicorp/vault/internalshared/configutil"
	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/hashicorp/vault/sdk/physical/inmem"
	"github.com/hashicorp/vault/vault"
)

func main() {
	address := os.Getenv("VAULT_DEV_LISTEN_ADDRESS")
	if address == "" {
		address = "0.0.0.0:8200"
	}
	core, err := newCore(hclog.New(&hclog.LoggerOptions{Level: hclog.Warn}))
	if err == nil {
		err = prepare(core, os.Getenv("VAULT_DEV_ROOT_TOKEN_ID"))
	}
	if err != nil {
		log.Fatal(err)
	}
	listener := &configutil.Listener{Type: "tcp", Address: address}
	handler := vaulthttp.Handler.Handler(&vault.HandlerProperties{Core: core, ListenerConfig: listener})
	log.Fatal(http.ListenAndServe(address, handler))
}

func newCore(logger hclog.Logger) (*vault.Core, error) {
	storage, err := inmem.NewInmem(nil, logger)
	if err != nil {
		return nil, err
	}
	return vault.NewCore(&vault.CoreConfig{
		Physical:        storage,
		Logger:          logger,
		DisableMlock:    true,
		BuiltinRegistry: none{},
		LogicalBackends: map[string]logical.Factory{"kv": kv.Factory},
		CredentialBackends: map[string]logical.Factory{
			"approle":    approle.Factory,
			"jwt":        authjwt.Factory,
			"kubernetes": authkubernetes.Factory,
			"userpass":   userpass.Factory,
		},
	})
}

// What the development server does before it listens.
func prepare(core *vault.Core, token string) error {
	ctx := namespace.ContextWithNamespace(context.Background(), namespace.RootNamespace)
	seal := &vault.SealConfig{SecretShares: 1, SecretThreshold: 1, Name: "shamir"}
	init, err := core.Initialize(ctx, &vault.InitParams{BarrierConfig: seal, RecoveryConfig: &vault.SealConfig{}})
	if err != nil {
		return err
	}
	unsealed, err := core.Unseal(init.SecretShares[0])
	if err != nil {
		return err
	}
	if !unsealed {
		return errors.New("it stays sealed")
	}
	mount := map[string]interface{}{"type": "kv", "options": map[string]string{"version": "2"}}
	if err := request(ctx, core, init.RootToken, "sys/mounts/secret", mount); err != nil {
		return err
	}
	if token == "" {
		return errors.New("VAULT_DEV_ROOT_TOKEN_ID is not set")
	}
	root := map[string]interface{}{"id": token, "policies": []string{"root"}, "no_parent": true, "no_default_policy": true}
	return request(ctx, core, init.RootToken, "auth/token/create", root)
}

func request(ctx context.Context, core *vault.Core, token, path string, data map[string]interface{}) error {
	response, err := core.HandleRequest(ctx, &logical.Request{
		ID:          path,
		Operation:   logical.UpdateOperation,
		ClientToken: token,
		Path:        path,
		Data:        data,
	})
	if err != nil {
		return err
	}
	if response.IsError() {
		return response.Error()
	}
	return nil
}

// All plugins are those that newCore names.
type none struct{}

func (none) Contains(string, consts.PluginType) bool { return false }

func (none) Get(string, consts.PluginType) (func() (interface{}, error), bool) { return nil, false }

func (none) Keys(consts.PluginType) []string { return nil }

func (none) DeprecationStatus(string, consts.PluginType) (consts.DeprecationStatus, bool) {
	return consts.Unknown, false
}

func (none) IsBuiltinEntPlugin(string, consts.PluginType) bool { return false }
