// Kubernetes in one program. The first argument names the component that it is to be: linked together they share the
// libraries that make up most of each of them, so that a test cluster is built once and held in memory once.
package main

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/server/v3/etcdmain"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
	kubectl "k8s.io/kubectl/pkg/cmd"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllermanager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	proxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"
)

// A component gets the arguments with its own name as the first, and returns the exit code.
type component func(arguments []string) int

var components = map[string]component{
	"etcd": func(arguments []string) int {
		etcdmain.Main(arguments)
		return 0
	},
	"kube-apiserver":          command(apiserver.NewAPIServerCommand),
	"kube-controller-manager": command(controllermanager.NewControllerManagerCommand),
	"kube-scheduler":          command(func() *cobra.Command { return scheduler.NewSchedulerCommand() }),
	"kube-proxy":              command(proxy.NewProxyCommand),
	"kubelet":                 command(func() *cobra.Command { return kubelet.NewKubeletCommand(context.Background()) }),
	"kubectl":                 command(kubectl.NewDefaultKubectlCommand),
	"certificates":            certificates,
}

// command makes a component of one that is a cobra command and reads the program's own arguments.
func command(build func() *cobra.Command) component {
	return func(arguments []string) int {
		// Flags and kubectl's plug-ins are looked up in here, and the usage text names the first of them.
		os.Args = arguments
		return cli.Run(build())
	}
}

func main() {
	if len(os.Args) > 1 {
		if run, known := components[os.Args[1]]; known {
			os.Exit(run(os.Args[1:]))
		}
	}
	names := slices.Sorted(maps.Keys(components))
	fmt.Fprintf(os.Stderr, "usage: kubernetes COMPONENT [ARGUMENT…]\ncomponents: %s\n", strings.Join(names, ", "))
	os.Exit(2)
}
