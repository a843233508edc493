// CoreDNS with the plug-ins that a cluster's DNS uses and no others: those for the clouds are most of what the usual
// build consists of. It is a module of its own, as its dependencies and Kubernetes' do not agree.
package main

import (
	"slices"

	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/coremain"
	_ "github.com/coredns/coredns/plugin/cache"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/forward"
	_ "github.com/coredns/coredns/plugin/health"
	_ "github.com/coredns/coredns/plugin/hosts"
	_ "github.com/coredns/coredns/plugin/kubernetes"
	_ "github.com/coredns/coredns/plugin/loadbalance"
	_ "github.com/coredns/coredns/plugin/log"
	_ "github.com/coredns/coredns/plugin/loop"
	_ "github.com/coredns/coredns/plugin/metrics"
	_ "github.com/coredns/coredns/plugin/ready"
	_ "github.com/coredns/coredns/plugin/reload"
	_ "github.com/coredns/coredns/plugin/template"
)

func main() {
	// The order in which a query passes the plug-ins is CoreDNS' own; a name that is not linked is not accepted.
	dnsserver.Directives = slices.DeleteFunc(dnsserver.Directives, func(name string) bool { return !linked[name] })
	coremain.Run()
}

var linked = map[string]bool{
	"cache": true, "errors": true, "forward": true, "health": true, "hosts": true, "kubernetes": true,
	"loadbalance": true, "log": true, "loop": true, "prometheus": true, "ready": true, "reload": true, "template": true,
}
