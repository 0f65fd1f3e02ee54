package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/hyperhq/hyper/proto/channel"
	agentv1 "github.com/hyperhq/hyper/proto/hyper/agent/v1"
)

// testMACs are those of the test guest's network cards.
var testMACs = [2]string{"02:00:00:00:01:00", "02:00:00:00:01:01"}

// podNetwork is what a pod's network looks like.
func podNetwork() *agentv1.SetNetworkRequest {
	return &agentv1.SetNetworkRequest{
		Interfaces: []*agentv1.Interface{
			{Mac: testMACs[0], Name: "pod0", Mtu: 1400, Addresses: []string{"10.0.2.15/24", "192.0.2.7/32", "fd00:1::7/64"}},
			{Mac: testMACs[1], Name: "pod1", Addresses: []string{"10.9.0.1/16"}},
		},
		Routes: []*agentv1.Route{
			{Destination: "169.254.1.1/32", Interface: "pod1", Scope: 253},
			{Destination: "0.0.0.0/0", Gateway: "10.0.2.2", Interface: "pod0"},
			{Destination: "198.51.100.0/24", Gateway: "169.254.1.1", Interface: "pod1", Source: "10.9.0.1", Metric: 42},
			{Destination: "203.0.113.0/24", Gateway: "192.0.2.99", Interface: "pod0", OnLink: true},
			{Destination: "::/0", Gateway: "fd00:1::1", Interface: "pod0"},
			// Two ways to one place, and a neighbour's own.
			{Destination: "2001:db8::/64", Gateway: "fd00:1::8", Interface: "pod0", Metric: 7},
			{Destination: "2001:db8::/64", Gateway: "fd00:1::9", Interface: "pod0", Metric: 7},
		},
		Neighbours: []*agentv1.Neighbour{
			{Address: "169.254.1.1", Mac: "02:00:00:00:00:fe", Interface: "pod1"},
			{Address: "fd00:1::1", Mac: "02:00:00:00:00:fd", Interface: "pod0"},
		},
	}
}

// podSpec is the spec of a pod's container: it shares the guest's own namespaces.
func podSpec(id string, args ...string) *specs.Spec {
	spec := testSpec(id, args...)
	spec.Linux.Namespaces = []specs.LinuxNamespace{{Type: "pid"}, {Type: "mount"}, {Type: "cgroup"}}
	return spec
}

// netAdmin lets a pod's container change the network.
func netAdmin(s *specs.Spec) {
	*s = *podSpec(strings.TrimPrefix(s.Hostname, "ctr-"), s.Process.Args...)
	s.Process.Capabilities = allCapabilities()
	s.Linux.ReadonlyPaths = nil
}

func (g *testGuest) setNetwork(t *testing.T, req *agentv1.SetNetworkRequest) {
	t.Helper()
	if _, err := g.api.SetNetwork(testCtx(t), req); err != nil {
		t.Fatalf("SetNetwork: %v", err)
	}
}

// asRoot runs a command line in the container "admin", of the guest's network.
func (g *testGuest) asRoot(t *testing.T, script string) string {
	t.Helper()
	exec := execSpec("sh", "-c", script)
	exec.Capabilities = allCapabilities()
	exit, out := g.exec(t, "admin", fmt.Sprint("e", time.Now().UnixNano()), exec)
	if exit.GetStatus() != 0 {
		t.Fatalf("%s: %d %s", script, exit.GetStatus(), out)
	}
	return out
}

// addBridge adds a bridge, if the guest's kernel has such.
func (g *testGuest) addBridge(t *testing.T, name string) bool {
	t.Helper()
	ok := g.asRoot(t, "ip link add "+name+" type bridge && ip link set "+name+" up && echo yes; true") == "yes\n"
	if !ok {
		t.Log("this kernel has no bridges: what containers make themselves is tested with the other")
	}
	return ok
}

func wantLines(t *testing.T, what, got string, lines ...string) {
	t.Helper()
	for _, line := range lines {
		if !strings.Contains(got, line) {
			t.Errorf("%s: no %q in:\n%s", what, line, got)
		}
	}
}

func wantNone(t *testing.T, what, got string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if strings.Contains(got, part) {
			t.Errorf("%s: %q in:\n%s", what, part, got)
		}
	}
}

const showNetwork = "ip addr; ip route; ip -6 route; ip neigh"

func testNetwork(t *testing.T, g *testGuest) {
	g.sleeper(t, "admin", netAdmin)
	g.setNetwork(t, podNetwork())
	wantLines(t, "network", g.asRoot(t, showNetwork),
		"BROADCAST,MULTICAST,UP,LOWER_UP> mtu 1400", "BROADCAST,MULTICAST,UP,LOWER_UP> mtu 1500",
		"inet 10.0.2.15/24 brd 10.0.2.255", "inet 192.0.2.7/32", "inet6 fd00:1::7/64 scope global", "inet 10.9.0.1/16",
		"default via 10.0.2.2 dev pod0", "169.254.1.1 dev pod1 scope link", "198.51.100.0/24 via 169.254.1.1 dev pod1  src 10.9.0.1  metric 42",
		"203.0.113.0/24 via 192.0.2.99 dev pod0 onlink", "default via fd00:1::1 dev pod0  metric 1024",
		"2001:db8::/64", "169.254.1.1 dev pod1 lladdr 02:00:00:00:00:fe", "fd00:1::1 dev pod0 lladdr 02:00:00:00:00:fd")
	if out := g.asRoot(t, "grep ^20010db8 /proc/net/ipv6_route"); strings.Count(out, "\n") != 2 {
		t.Errorf("not two ways to 2001:db8::/64:\n%s", out)
	}
	wantNone(t, "network", g.asRoot(t, "ip addr show dev pod0"), "tentative fd00")

	testNetworkUntouched(t, g)
	testNetworkGoesOn(t, g)
	testNetworkShrinks(t, g)
}

// testNetworkGoesOn asks for a network of which something cannot be.
func testNetworkGoesOn(t *testing.T, g *testGuest) {
	req := podNetwork()
	req.Routes = append([]*agentv1.Route{{Destination: "198.18.0.0/15", Gateway: "198.51.100.77", Interface: "pod0"}}, req.Routes...)
	req.Interfaces[1].Addresses = append(req.Interfaces[1].Addresses, "10.9.0.2/16")
	req.Neighbours = append(req.Neighbours, &agentv1.Neighbour{Address: "10.9.0.9", Mac: "02:00:00:00:00:fc", Interface: "pod1"})
	if _, err := g.api.SetNetwork(testCtx(t), req); err == nil || !strings.Contains(err.Error(), "198.18.0.0/15") {
		t.Errorf("of a route whose gateway nothing leads to: %v", err)
	}
	wantLines(t, "the rest", g.asRoot(t, showNetwork), "inet 10.9.0.2/16", "10.9.0.9 dev pod1 lladdr 02:00:00:00:00:fc")
	g.setNetwork(t, podNetwork())
}

// testNetworkUntouched asks for what is there: a connection lives, and what was
// changed in a way that no request speaks of stays changed.
func testNetworkUntouched(t *testing.T, g *testGuest) {
	s := g.open(t, "io")
	if err := g.create(t, "talk", podSpec("talk", "nc", "10.0.2.100", "7"), s); err != nil {
		t.Fatal(err)
	}
	if _, err := g.api.StartProcess(testCtx(t), &agentv1.ProcessRef{ContainerId: "talk"}); err != nil {
		t.Fatal(err)
	}
	var heard bytes.Buffer
	fmt.Fprintln(s.stdin, "before")
	until(t, s.stdout, &heard, "before\n")
	g.asRoot(t, "route del default; route add default gw 10.0.2.2 window 7777 dev pod0; ip addr del 192.0.2.7/32 dev pod0; ip addr add 192.0.2.7/32 dev pod0 label pod0:kept")
	show := showNetwork + "; cat /proc/net/route /sys/class/net/pod?/carrier_changes"
	before := g.asRoot(t, show)
	for range 2 {
		g.setNetwork(t, podNetwork())
	}
	after := g.asRoot(t, show)
	wantLines(t, "what was changed", after, "\t7777\t", "pod0:kept")
	if stable(before) != stable(after) {
		t.Errorf("the same network again changed\n%s\nto\n%s", before, after)
	}
	fmt.Fprintln(s.stdin, "after")
	until(t, s.stdout, &heard, "after\n")
}

// stable leaves out what the kernel comes to know by itself: neighbours, and that
// nobody else has an address.
func stable(network string) string {
	var kept []string
	for line := range strings.Lines(network) {
		if !strings.Contains(line, "lladdr") || strings.Contains(line, "PERMANENT") {
			kept = append(kept, strings.ReplaceAll(line, " tentative", ""))
		}
	}
	return strings.Join(kept, "")
}

func testNetworkShrinks(t *testing.T, g *testGuest) {
	// What a container made of itself is its own.
	bridged := g.addBridge(t, "br7")
	if bridged {
		g.asRoot(t, "ip addr add 10.77.0.1/24 dev br7")
	}
	g.asRoot(t, "ip addr add 10.0.9.9/24 dev pod0; ip route add 10.88.0.0/16 dev pod0")
	less := podNetwork()
	less.Interfaces = less.Interfaces[:1]
	less.Interfaces[0].Addresses = []string{"10.0.2.15/24", "10.9.0.1/16"} // one has moved
	less.Routes = []*agentv1.Route{{Destination: "0.0.0.0/0", Gateway: "10.0.2.3", Interface: "pod0"}}
	less.Neighbours = nil
	g.setNetwork(t, less)
	out := g.asRoot(t, showNetwork)
	wantLines(t, "less network", out, "inet 10.0.2.15/24", "inet 10.9.0.1/16 brd 10.9.255.255 scope global pod0", "default via 10.0.2.3 dev pod0",
		"10.0.2.0/24 dev pod0 scope link", "pod1: <BROADCAST,MULTICAST> mtu 1500", "inet6 fe80::", "inet 127.0.0.1/8")
	wantNone(t, "less network", out, "192.0.2.7", "fd00:1::", "198.51.100", "203.0.113", "10.0.2.2 ", "10.0.9.9", "10.88.0.0", "2001:db8", "PERMANENT", "169.254")
	if bridged {
		wantLines(t, "the bridge", out, "inet 10.77.0.1/24")
		g.asRoot(t, "ip link del br7")
	}
	g.setNetwork(t, &agentv1.SetNetworkRequest{})
	wantNone(t, "no network", g.asRoot(t, showNetwork), "10.0.2", "10.9.0", "pod0: <BROADCAST,MULTICAST,UP")
}

// testNetworkWaits has an interface appear, by its MAC address, while it is
// waited for.
func testNetworkWaits(t *testing.T, g *testGuest) {
	g.sleeper(t, "admin", netAdmin)
	late := &agentv1.SetNetworkRequest{Interfaces: []*agentv1.Interface{{Mac: "02:00:00:00:01:99", Name: "late0", Addresses: []string{"10.3.0.1/24"}}}}
	short, cancel := context.WithTimeout(testCtx(t), 300*time.Millisecond)
	defer cancel()
	_, err := g.api.SetNetwork(short, late)
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("an interface that does not come: %v", err)
	}

	set := make(chan error, 1)
	go func() { _, err := g.api.SetNetwork(testCtx(t), late); set <- err }()
	name := strings.TrimSpace(g.asRoot(t, "cd /sys/class/net; grep -l "+testMACs[1]+" */address | cut -d/ -f1"))
	g.asRoot(t, "ip link set dev "+name+" address 02:00:00:00:01:99")
	if err := <-set; err != nil {
		t.Fatal(err)
	}
	wantLines(t, "the late interface", g.asRoot(t, "ip addr show dev late0"), "inet 10.3.0.1/24", "02:00:00:00:01:99")
	g.asRoot(t, "ip link set dev late0 down; ip link set dev late0 address "+testMACs[1])
}

func testNetworkNames(t *testing.T, g *testGuest) {
	g.sleeper(t, "admin", netAdmin)
	named := func(first, second string) {
		t.Helper()
		g.setNetwork(t, &agentv1.SetNetworkRequest{Interfaces: []*agentv1.Interface{
			{Mac: testMACs[0], Name: first, Addresses: []string{"10.1.0.1/24"}}, {Mac: testMACs[1], Name: second, Addresses: []string{"fd00:2::1/64"}},
		}, Routes: []*agentv1.Route{{Destination: "10.2.0.0/16", Gateway: "10.1.0.2", Interface: first}}})
		got := g.asRoot(t, fmt.Sprintf("cat /sys/class/net/%s/address /sys/class/net/%s/address; ip route; ip -6 addr show dev %s", first, second, second))
		wantLines(t, first+" and "+second, got, testMACs[0]+"\n"+testMACs[1]+"\n", "10.2.0.0/16 via 10.1.0.2 dev "+first, "inet6 fd00:2::1/64")
	}
	named("a0", "b0")
	named("b0", "a0") // swapped while up
	named("b0", "c.1")
	named("c.1", "b0")
	// A name that something else has.
	if g.addBridge(t, "d0") {
		named("d0", "b0")
		wantLines(t, "who had the name", g.asRoot(t, "ip link"), "moved0: <")
		g.asRoot(t, "ip link del moved0")
	}
	_, err := g.api.SetNetwork(testCtx(t), &agentv1.SetNetworkRequest{Interfaces: []*agentv1.Interface{{Mac: testMACs[0], Name: "lo"}}})
	wantCode(t, "the name lo", err, codes.InvalidArgument)
}

// listen runs a server, a shell command line, in a container of the guest's
// network, and returns when it listens on the port.
func (g *testGuest) listen(t *testing.T, id string, port int, server string) {
	t.Helper()
	s := g.open(t, "oe")
	// Nobody is told when it listens.
	run := fmt.Sprintf("%s & until netstat -ltn | grep -q ':%d '; do sleep 0.05; done; echo up; wait", server, port)
	if err := g.create(t, id, podSpec(id, "sh", "-c", run), s); err != nil {
		t.Fatal(err)
	}
	if _, err := g.api.StartProcess(testCtx(t), &agentv1.ProcessRef{ContainerId: id}); err != nil {
		t.Fatal(err)
	}
	var seen bytes.Buffer
	until(t, s.stdout, &seen, "up\n")
}

func (g *testGuest) forward(t *testing.T, port uint16) *channel.Conn {
	t.Helper()
	conn, err := g.session.Forward(testCtx(t), port)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(testPatience))
	return conn
}

// testForward asks a server that answers when the question has ended, and only
// then; and servers that listen on one address of the loopback only.
func testForward(t *testing.T, g *testGuest) {
	const size = 300000
	g.listen(t, "srv", 7004, fmt.Sprintf("nc -ll -p 7004 -e sh -c 'cat | wc -c; head -c %d /dev/zero; echo end'", size))
	conn := g.forward(t, 7004)
	if _, err := conn.Write(make([]byte, size)); err != nil {
		t.Fatal(err)
	}
	if err := conn.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(conn)
	want := fmt.Sprintf("%d\n%send\n", size, strings.Repeat("\x00", size))
	if err != nil || string(got) != want {
		t.Errorf("%d bytes of %d, %v", len(got), len(want), err)
	}
	for port, address := range map[int]string{7005: "127.0.0.1", 7006: "[::1]"} {
		g.listen(t, fmt.Sprint("web", port), port, fmt.Sprintf("httpd -f -h /etc -p %s:%d", address, port))
		conn := g.forward(t, uint16(port))
		fmt.Fprint(conn, "GET /group HTTP/1.0\r\n\r\n")
		if got, err := io.ReadAll(conn); err != nil || !strings.HasSuffix(string(got), "user:x:1000:\n") {
			t.Errorf("%s: %q, %v", address, got, err)
		}
	}
	if _, err := g.session.Forward(testCtx(t), 7099); !errors.Is(err, channel.ErrRefused) {
		t.Errorf("a port that nobody has: %v", err)
	}
	if _, err := g.session.Forward(testCtx(t), 0); !errors.Is(err, channel.ErrRefused) {
		t.Errorf("port 0: %v", err)
	}
}

// testForwardBreaks ends connections out of order, and as many as there may be.
func testForwardBreaks(t *testing.T, g *testGuest) {
	g.listen(t, "flood", 7001, "nc -ll -p 7001 -e cat /dev/zero")
	// More than there may be at once, each given up in the middle.
	for range maxForwards + 10 {
		conn := g.forward(t, 7001)
		if _, err := io.ReadFull(conn, make([]byte, 100)); err != nil {
			t.Fatal(err)
		}
		conn.Close()
	}
	g.listen(t, "echo", 7002, "nc -ll -p 7002 -e cat")
	conn := g.forward(t, 7002)
	fmt.Fprint(conn, "hello")
	if _, err := io.ReadFull(conn, make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	// The server dies: its connections end.
	if _, err := g.api.SignalProcess(testCtx(t), &agentv1.SignalProcessRequest{ContainerId: "echo", Signal: 9}); err != nil {
		t.Fatal(err)
	}
	if got, _ := io.ReadAll(conn); len(got) != 0 {
		t.Errorf("%q after the end", got)
	}
	// And with the session.
	held := g.forward(t, 7001)
	g.reconnect(t)
	if _, err := io.Copy(io.Discard, held); err == nil {
		t.Error("a connection whose session ended seems to have ended in order")
	}
}

func testSysctls(t *testing.T, g *testGuest) {
	configure := func(sysctls map[string]string) error {
		_, err := g.api.Configure(testCtx(t), &agentv1.ConfigureRequest{Sysctls: sysctls})
		return err
	}
	if err := configure(map[string]string{
		"net.ipv4.ip_unprivileged_port_start": "77", "kernel.msgmax": "12345", "fs.mqueue.msg_max": "15",
		"net.ipv4.ip_local_port_range": "20000 30000", "net.ipv4.conf.pod0.rp_filter": "2", "kernel.domainname": "pod.example",
	}); err != nil {
		t.Fatal(err)
	}
	g.setNetwork(t, podNetwork())
	cat := "cd /proc/sys; cat net/ipv4/ip_unprivileged_port_start kernel/msgmax fs/mqueue/msg_max net/ipv4/ip_local_port_range net/ipv4/conf/pod0/rp_filter kernel/domainname; (echo 1 >net/ipv4/ip_forward) 2>&1"
	_, out, _ := g.run(t, "sysctl", podSpec("sysctl", "sh", "-c", cat))
	if !strings.HasPrefix(out, "77\n12345\n15\n20000\t30000\n2\npod.example\n") || !strings.Contains(out, "Read-only file system") {
		t.Errorf("got %q", out)
	}
	for _, name := range []string{"kernel.panic", "vm.swappiness", "net/../kernel/panic", "kernel.hostname"} {
		wantCode(t, name, configure(map[string]string{name: "1", "net.ipv4.ip_unprivileged_port_start": "99"}), codes.InvalidArgument)
	}
	if err := configure(map[string]string{"net.ipv4.no_such": "1"}); err == nil || !strings.Contains(err.Error(), "net.ipv4.no_such") {
		t.Errorf("a sysctl that is not: %v", err)
	}
	if _, out, _ := g.run(t, "sysctl", podSpec("sysctl", "cat", "/proc/sys/net/ipv4/ip_unprivileged_port_start")); out != "77\n" {
		t.Errorf("a refused request has set %q", out)
	}
	if err := configure(map[string]string{"net.ipv4.ip_unprivileged_port_start": "1024"}); err != nil {
		t.Fatal(err)
	}
	g.setNetwork(t, proto.CloneOf(&agentv1.SetNetworkRequest{}))
}
