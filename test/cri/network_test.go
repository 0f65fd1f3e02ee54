package cri

import (
	"fmt"
	"io"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/hyperhq/hyper/test/harness"
)

// serve runs a server in the pod and returns when it listens.
func (p *pod) serve(t *testing.T, address, text string) *container {
	t.Helper()
	c := p.run(t, []string{"probe", "listen", address, text})
	c.await(t, "listening")
	return c
}

// ask connects from a container and returns the answer to a text.
func (c *container) ask(t *testing.T, address, text string) string {
	t.Helper()
	return c.sh(t, fmt.Sprintf("echo %s | probe dial %s", text, address))
}

// ask is container.ask from the node's own network.
func (n *node) ask(t *testing.T, address, text string) string {
	t.Helper()
	conn, err := n.network.Dial("tcp", address, 10*time.Second)
	if err != nil {
		t.Fatalf("connecting to %s: %v", address, err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(harness.Slowly(patience)))
	fmt.Fprintln(conn, text)
	conn.(*net.TCPConn).CloseWrite()
	answer, err := io.ReadAll(conn)
	if err != nil {
		t.Fatalf("reading from %s: %v", address, err)
	}
	return strings.TrimSpace(string(answer))
}

// testPodToPod has two pods talk by both families.
func testPodToPod(t *testing.T, n *node) {
	server, client := n.pod(t, nil), n.shared(t)
	server.serve(t, ":7000", "hello")
	c := client.sleeper(t)
	ip4, ip6 := server.addresses(t)
	for _, ip := range []string{ip4, ip6} {
		if got := c.ask(t, net.JoinHostPort(ip, "7000"), "text"); got != "hello\ntext" {
			t.Errorf("%s answers %q", ip, got)
		}
		c.exec(t, "ping", "-c", "1", "-W", "10", ip)
	}
}

// testNodeAndPod has a pod and the node talk, both ways, by both families.
func testNodeAndPod(t *testing.T, n *node) {
	p := n.shared(t)
	p.serve(t, ":7000", "hello")
	ip4, ip6 := p.addresses(t)
	for _, ip := range []string{ip4, ip6} {
		if got := n.ask(t, net.JoinHostPort(ip, "7000"), "text"); got != "hello\ntext" {
			t.Errorf("%s answers %q", ip, got)
		}
	}
	c := p.sleeper(t)
	for _, ip := range []string{harness.PodGateway4, harness.PodGateway6} {
		var l net.Listener
		n.in(t, func() (err error) {
			l, err = net.Listen("tcp", net.JoinHostPort(ip, "0"))
			return err
		})
		defer l.Close()
		go func() { // ends with the listener
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				fmt.Fprintln(conn, "from the node")
				io.Copy(conn, conn)
				conn.Close()
			}
		}()
		if got := c.ask(t, l.Addr().String(), "text"); got != "from the node\ntext" {
			t.Errorf("%s answers %q", ip, got)
		}
	}
}

// testContainersShareNetwork has a container that reaches another by loopback.
func testContainersShareNetwork(t *testing.T, n *node) {
	p := n.shared(t)
	p.serve(t, "127.0.0.1:7000", "hello")
	if got := p.sleeper(t).ask(t, "127.0.0.1:7000", "text"); got != "hello\ntext" {
		t.Errorf("got %q", got)
	}
}

// testInterface looks at what the pod has got: name, addresses, MTU, routes.
func testInterface(t *testing.T, n *node) {
	p := n.shared(t)
	c := p.sleeper(t)
	ip4, ip6 := p.addresses(t)
	addresses := c.exec(t, "ip", "address", "show", "dev", "eth0")
	for _, want := range []string{" inet " + ip4 + "/24", " inet6 " + ip6 + "/64", fmt.Sprintf(" mtu %d ", harness.PodMTU)} {
		if !strings.Contains(addresses, want) {
			t.Errorf("no %q in:\n%s", want, addresses)
		}
	}
	if got := c.exec(t, "ip", "route"); !strings.Contains(got, "default via "+harness.PodGateway4+" dev eth0") {
		t.Errorf("the routes are:\n%s", got)
	}
	if got := c.exec(t, "ip", "-6", "route"); !strings.Contains(got, "default via "+harness.PodGateway6+" dev eth0") {
		t.Errorf("the routes of IPv6 are:\n%s", got)
	}
	// A packet as large as the MTU allows arrives.
	c.exec(t, "ping", "-c", "1", "-W", "10", "-s", fmt.Sprint(harness.PodMTU-28), harness.PodGateway4)
}

// testHostPort publishes a port on the node, by both families.
func testHostPort(t *testing.T, n *node) {
	p := n.pod(t, func(c *runtimeapi.PodSandboxConfig) {
		c.PortMappings = []*runtimeapi.PortMapping{{Protocol: runtimeapi.Protocol_TCP, ContainerPort: 7000, HostPort: 17000}}
	})
	p.serve(t, ":7000", "hello")
	other := n.shared(t).sleeper(t)
	for _, gateway := range []string{harness.PodGateway4, harness.PodGateway6} {
		address := net.JoinHostPort(gateway, "17000")
		if got := n.ask(t, address, "text"); got != "hello\ntext" {
			t.Errorf("%s answers %q", address, got)
		}
		if got := other.ask(t, address, "text"); got != "hello\ntext" {
			t.Errorf("asked by another pod %s answers %q", address, got)
		}
	}
}

// forwardURL asks for connections to the pod's ports.
func (p *pod) forwardURL(t *testing.T) string {
	t.Helper()
	r, err := p.node.runtime.PortForward(t.Context(), &runtimeapi.PortForwardRequest{PodSandboxId: p.id})
	if err != nil {
		t.Fatalf("asking for port-forward: %v", err)
	}
	return r.Url
}

// testPortForward reaches what listens on the pod's loopback only, as kubectl
// port-forward does.
func testPortForward(t *testing.T, n *node) {
	p := n.shared(t)
	for i, address := range []string{"127.0.0.1:7000", ":7001"} {
		p.serve(t, address, "hello")
		data, failure := n.forward(t, p.forwardURL(t), 7000+i)
		fmt.Fprintln(data, "text")
		data.Close() // the end of what is sent
		if got := readAll(t, data); got != "hello\ntext\n" {
			t.Errorf("%s answers %q", address, got)
		}
		if got := readAll(t, failure); got != "" {
			t.Errorf("%s: %s", address, got)
		}
	}
	// Nobody listens there. The way into a virtual machine has taken the
	// connection before it knows, and breaks it.
	data, failure := n.forward(t, p.forwardURL(t), 7002)
	defer data.Close()
	if got := readAll(t, failure); !strings.Contains(got, "refused") && !strings.Contains(got, "reset") {
		t.Errorf("a port without a server: %q", got)
	}
}

// testPodLoopback reaches the pod's loopback from the node's side of the pod's
// network namespace, as agents of a node do.
func testPodLoopback(t *testing.T, n *node) {
	p := n.shared(t)
	p.serve(t, "127.0.0.1:7000", "hello")
	ns := p.namespace(t)
	if got := strings.TrimSpace(n.command(t, "nsenter", "--net="+ns, "busybox", "sh", "-c", "echo text | busybox nc -w 10 127.0.0.1 7000")); got != "hello\ntext" {
		t.Errorf("it answers %q", got)
	}
}

// namespace is the file of the pod's network namespace on the node: of those that
// containerd has made, the one with the pod's address.
func (p *pod) namespace(t *testing.T) string {
	t.Helper()
	ip, _ := p.addresses(t)
	files, err := filepath.Glob(filepath.Join(p.node.cell.Dir, "state/io.containerd.grpc.v1.cri/netns/*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if hasAddress(file, ip) {
			return file
		}
	}
	t.Fatalf("none of %q has %s", files, ip)
	return ""
}

func hasAddress(namespace, ip string) bool {
	ns, err := netns.GetFromPath(namespace)
	if err != nil {
		return false
	}
	defer ns.Close()
	h, err := netlink.NewHandleAt(ns)
	if err != nil {
		return false
	}
	defer h.Close()
	addresses, err := h.AddrList(nil, netlink.FAMILY_V4)
	return err == nil && slices.ContainsFunc(addresses, func(a netlink.Addr) bool { return a.IP.String() == ip })
}

// testNetworkNamespace looks at the pod's namespace on the node: it has the
// interface that CNI made there, and is gone with the pod.
func testNetworkNamespace(t *testing.T, n *node) {
	p := n.shared(t)
	path := p.namespace(t)
	ns, err := netns.GetFromPath(path)
	if err != nil {
		t.Fatalf("opening %s: %v", path, err)
	}
	defer ns.Close()
	h, err := netlink.NewHandleAt(ns)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	link, err := h.LinkByName("eth0")
	if err != nil {
		t.Fatalf("eth0 in the pod's namespace: %v", err)
	}
	if mac := p.sleeper(t).exec(t, "cat", "/sys/class/net/eth0/address"); mac != link.Attrs().HardwareAddr.String() {
		t.Errorf("inside, eth0 is %s; on the node %s", mac, link.Attrs().HardwareAddr)
	}
}
