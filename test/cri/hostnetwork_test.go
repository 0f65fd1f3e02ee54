package cri

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/hyperhq/hyper/test/harness"
)

// getPage begins a command that gets a page of an address and a port. The server
// ends the connection: nc's own end of it comes later.
const getPage = `(printf 'GET / HTTP/1.0\r\n\r\n'; sleep 4) | timeout 8 nc -w 5 `

// testHostNetwork asks for the node's network, which a machine cannot share: a pod
// gets a way out in user mode, and no way to the node's loopback.
func testHostNetwork(t *testing.T, n *node) {
	if _, err := exec.LookPath("pasta"); err != nil && n.cell.Runtime == harness.RuntimeHyper {
		t.Skip("no pasta: install passt (`make setup`):", err)
	}
	harness.NewOutside(t, harness.OpenNetNS(t, os.Getpid()))
	harness.AnswerHTTP(t, "127.0.0.1:7002", "the node's loopback")

	p := n.pod(t, func(c *runtimeapi.PodSandboxConfig) {
		c.Linux.SecurityContext.NamespaceOptions.Network = runtimeapi.NamespaceMode_NODE
		c.Hostname = ""
		c.DnsConfig = &runtimeapi.DNSConfig{Servers: []string{harness.OutsideAddress}}
	})
	c := p.sleeper(t)
	// The name is asked for by UDP of the server in the pod's resolv.conf.
	if got := c.exec(t, "nslookup", harness.OutsideName); !strings.Contains(got, "Address: "+harness.OutsideAddress+"\n") && !strings.HasSuffix(got, "Address: "+harness.OutsideAddress) {
		t.Errorf("the name server says %q", got)
	}
	if got := c.sh(t, getPage+harness.OutsideAddress+" "+harness.OutsidePort+" | tail -1"); got != harness.OutsidePage {
		t.Errorf("the server outside answers %q", got)
	}
	if n.cell.Runtime != harness.RuntimeHyper {
		return
	}
	if got := c.exec(t, "ip", "link"); strings.Contains(got, "up0") {
		t.Errorf("it sees the node's interfaces:\n%s", got)
	}
	for _, address := range []string{"127.0.0.1", "10.0.2.2", harness.UplinkAddress} {
		if got := c.sh(t, getPage+address+" 7002 2>/dev/null | tail -1"); got != "" {
			t.Errorf("by %s it reaches %q", address, got)
		}
	}
}
