package cri

import (
	"fmt"
	"net"
	"os/exec"
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/hyperhq/hyper/test/harness"
)

// pages gets the pages of a port at several addresses, all at the same time; what
// does not answer has an empty one. The server ends the connection: nc's own end of it
// comes later.
func (c *container) pages(t *testing.T, port string, addresses ...string) map[string]string {
	t.Helper()
	const script = `for a in %s; do
	{ echo $a $( (printf 'GET / HTTP/1.0\r\n\r\n'; sleep 4) | timeout 8 nc -w 5 $a %s 2>/dev/null | tail -1); } &
done
wait`
	answers := make(map[string]string)
	for line := range strings.Lines(c.sh(t, fmt.Sprintf(script, strings.Join(addresses, " "), port))) {
		address, page, _ := strings.Cut(strings.TrimSpace(line), " ")
		answers[address] = page
	}
	if len(answers) != len(addresses) {
		t.Fatalf("of %v there are the answers %v", addresses, answers)
	}
	return answers
}

// testHostNetwork asks for the node's network, which a machine cannot share: a pod
// gets a way out in user mode, and no way to the node's loopback.
func testHostNetwork(t *testing.T, n *node) {
	if _, err := exec.LookPath("pasta"); err != nil && n.cell.Runtime == harness.RuntimeHyper {
		t.Skip("no pasta: install passt (`make setup`):", err)
	}
	harness.NewOutside(t, n.network)
	n.in(t, func() error {
		for _, address := range []string{"127.0.0.1", "::1"} {
			harness.AnswerHTTP(t, net.JoinHostPort(address, "7002"), "the node's loopback")
		}
		return nil
	})

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
	for address, got := range c.pages(t, harness.OutsidePort, harness.OutsideAddress, harness.OutsideAddress6) {
		if got != harness.OutsidePage {
			t.Errorf("the server outside answers by %s %q", address, got)
		}
	}
	if n.cell.Runtime != harness.RuntimeHyper {
		return
	}
	if got := c.exec(t, "ip", "link"); strings.Contains(got, "up0") {
		t.Errorf("it sees the node's interfaces:\n%s", got)
	}
	refused := []string{"127.0.0.1", "10.0.2.2", harness.UplinkAddress, "::1", "fe80::2%eth0", harness.UplinkAddress6}
	for address, got := range c.pages(t, "7002", refused...) {
		if got != "" {
			t.Errorf("by %s it reaches %q", address, got)
		}
	}
}
