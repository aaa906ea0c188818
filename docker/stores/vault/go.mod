module vault-dev

go 1.25.3

require github.com/hashicorp/vault v1.21.4

// Vault is built with the sdk beside it; of those that were released this one has what is used here.
replace github.com/hashicorp/vault/sdk => github.com/hashicorp/vault/sdk v0.20.0
