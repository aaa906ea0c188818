// A Kubernetes API server with an etcd of its own, in one process: what reads and guards secrets, and nothing of the rest
// (no controllers, no scheduler, no nodes). Takes the arguments of kube-apiserver, less those about etcd.
package main

import (
	"log"
	"os"

	"go.etcd.io/etcd/server/v3/embed"
	"k8s.io/component-base/cli"
	"k8s.io/kubernetes/cmd/kube-apiserver/app"
)

func main() {
	config := embed.NewConfig()
	config.Dir = "etcd"
	config.LogLevel = "error"
	config.UnsafeNoFsync = true
	etcd, err := embed.StartEtcd(config)
	if err != nil {
		log.Fatal(err)
	}
	<-etcd.Server.ReadyNotify()
	command := app.NewAPIServerCommand()
	command.SetArgs(append(os.Args[1:], "--etcd-servers=http://127.0.0.1:2379"))
	os.Exit(cli.Run(command))
}
