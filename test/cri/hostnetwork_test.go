package cri

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/hyperhq/hyper/test/harness"
)

// The network beyond the node, and who is there by the name outsideName.
const (
	uplinkAddress  = "10.55.0.2"
	outsideAddress = "10.55.0.1"
	outsideName    = "server.test"
)

// uplink gives the node a default route to a network of the test's.
func uplink(t *testing.T) *harness.NetNS {
	t.Helper()
	node, outside := harness.OpenNetNS(t, os.Getpid()), harness.NewNetNS(t)
	node.Veth(t, "up0", []string{uplinkAddress + "/24"}, outside, "wan0", []string{outsideAddress + "/24"})
	link, err := node.LinkByName("up0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { node.LinkDel(link) })
	if err := node.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: net.ParseIP(outsideAddress)}); err != nil {
		t.Fatalf("giving the node a default route: %v", err)
	}
	return outside
}

// answerHTTP serves a page until the test ends.
func answerHTTP(t *testing.T, address, text string) {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, text) })}
	t.Cleanup(func() { server.Close() })
	go server.Serve(l) // ends with the server
}

// answerDNS is a server that knows one name, until the test ends.
func answerDNS(t *testing.T, address string) {
	t.Helper()
	conn, err := net.ListenPacket("udp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	go func() { // ends with the socket
		buf := make([]byte, 1500)
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			if reply := dnsReply(buf[:n]); reply != nil {
				conn.WriteTo(reply, from)
			}
		}
	}()
}

// dnsReply answers any question for an address of IPv4 with outsideAddress, and
// others with nothing.
func dnsReply(query []byte) []byte {
	const header = 12
	end := header
	for end < len(query) && query[end] != 0 {
		end += int(query[end]) + 1
	}
	end += 5 // the root's label, type and class
	if end > len(query) {
		return nil
	}
	reply := append([]byte{query[0], query[1], 0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0}, query[header:end]...)
	if query[end-3] == 1 { // A
		reply[7] = 1
		reply = append(reply, 0xc0, header, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4)
		reply = append(reply, net.ParseIP(outsideAddress).To4()...)
	}
	return reply
}

// getPage begins a command that gets a page of an address and a port. The server
// ends the connection: nc's own end of it comes later.
const getPage = `(printf 'GET / HTTP/1.0\r\n\r\n'; sleep 4) | timeout 8 nc -w 5 `

// testHostNetwork asks for the node's network, which a machine cannot share: a pod
// gets a way out in user mode, and no way to the node's loopback.
func testHostNetwork(t *testing.T, n *node) {
	if _, err := exec.LookPath("pasta"); err != nil && n.cell.Runtime == harness.RuntimeHyper {
		t.Skip("no pasta: install passt (`make setup`):", err)
	}
	outside := uplink(t)
	if err := outside.Do(func() error {
		answerHTTP(t, net.JoinHostPort(outsideAddress, "7000"), "from outside")
		answerDNS(t, net.JoinHostPort(outsideAddress, "53"))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	answerHTTP(t, "127.0.0.1:7002", "the node's loopback")

	p := n.pod(t, func(c *runtimeapi.PodSandboxConfig) {
		c.Linux.SecurityContext.NamespaceOptions.Network = runtimeapi.NamespaceMode_NODE
		c.Hostname = ""
		c.DnsConfig = &runtimeapi.DNSConfig{Servers: []string{outsideAddress}}
	})
	c := p.sleeper(t)
	// The name is asked for by UDP of the server in the pod's resolv.conf.
	if got := c.exec(t, "nslookup", outsideName); !strings.Contains(got, "Address: "+outsideAddress+"\n") && !strings.HasSuffix(got, "Address: "+outsideAddress) {
		t.Errorf("the name server says %q", got)
	}
	if got := c.sh(t, getPage+outsideAddress+" 7000 | tail -1"); got != "from outside" {
		t.Errorf("the server outside answers %q", got)
	}
	if n.cell.Runtime != harness.RuntimeHyper {
		return
	}
	if got := c.exec(t, "ip", "link"); strings.Contains(got, "up0") {
		t.Errorf("it sees the node's interfaces:\n%s", got)
	}
	for _, address := range []string{"127.0.0.1", "10.0.2.2", uplinkAddress} {
		if got := c.sh(t, getPage+address+" 7002 2>/dev/null | tail -1"); got != "" {
			t.Errorf("by %s it reaches %q", address, got)
		}
	}
}
