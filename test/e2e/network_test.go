package e2e

import (
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/containerd/cgroups/v3/cgroup2/stats"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/hyperhq/hyper/test/harness"
)

// server serves one page at every address, and says when it does.
const server = `mkdir -p /tmp/www && echo a page >/tmp/www/index.html && httpd -h /tmp/www -p %s && echo serving; exec sleep 100000`

// inNetwork gives a container a network namespace that is there already.
func inNetwork(ns *harness.NetNS) harness.Option {
	return func(s *specs.Spec) {
		for i := range s.Linux.Namespaces {
			if s.Linux.Namespaces[i].Type == specs.NetworkNamespace {
				s.Linux.Namespaces[i].Path = ns.Path()
			}
		}
	}
}

// page fetches the server's page.
func page(from *harness.NetNS, network, address string) (string, error) {
	conn, err := from.Dial(network, address, harness.Soon)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(harness.Soon))
	if _, err := io.WriteString(conn, "GET / HTTP/1.0\r\n\r\n"); err != nil {
		return "", err
	}
	reply, err := io.ReadAll(conn)
	_, body, _ := strings.Cut(string(reply), "\r\n\r\n")
	return body, err
}

func wantPage(t *testing.T, from *harness.NetNS, network, address string) {
	t.Helper()
	if got, err := page(from, network, address); got != "a page\n" || err != nil {
		t.Errorf("from %s came %q, %v", address, got, err)
	}
}

// given makes a namespace with an interface, whose other end is in another.
func given(t *testing.T) (outside, ns *harness.NetNS) {
	t.Helper()
	outside, ns = harness.NewNetNS(t), harness.NewNetNS(t)
	outside.Veth(t, "peer", []string{"10.99.0.1/24", "fd99::1/64"}, ns, "eth7", []string{"10.99.0.2/24", "fd99::2/64"})
	link, err := ns.LinkByName("eth7")
	if err == nil {
		err = ns.LinkSetMTU(link, 1400)
	}
	for _, gateway := range []string{"10.99.0.1", "fd99::1"} {
		if err == nil {
			err = ns.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: net.ParseIP(gateway)})
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return outside, ns
}

// testGivenNetwork runs a container in a network namespace that has an interface:
// it has the same, and is reached by its addresses.
func testGivenNetwork(t *testing.T, c *harness.Cell) {
	outside, ns := given(t)
	link, err := ns.LinkByName("eth7")
	if err != nil {
		t.Fatal(err)
	}
	task := c.Container(t, inNetwork(ns), harness.Sh(fmt.Sprintf(server, "80"))).Create(t, harness.IO{})
	task.Start(t)
	task.Expect(t, "serving\n")

	r := task.Shell(t, "cat /sys/class/net/eth7/address /sys/class/net/eth7/mtu; ls /sys/class/net; { ip route; ip -6 route; } | grep ^default | cut -d' ' -f-5")
	want := fmt.Sprintf("%s\n1400\neth7\nlo\ndefault via 10.99.0.1 dev eth7\ndefault via fd99::1 dev eth7", link.Attrs().HardwareAddr)
	if r.Status != 0 || !strings.HasPrefix(r.Stdout, want) {
		t.Errorf("got %+v, want %q", r, want)
	}
	for _, host := range []string{"10.99.0.1", "fd99::1"} {
		if r := task.Shell(t, "ping -c 2 -W 5 "+host); r.Status != 0 {
			t.Errorf("ping %s: %+v", host, r)
		}
	}
	wantPage(t, outside, "tcp4", "10.99.0.2:80")
	wantPage(t, outside, "tcp6", "[fd99::2]:80")
}

// testLaterNetwork attaches an interface to a container that runs, as CNI does for
// `ctr run --cni`, changes it, and takes it away.
func testLaterNetwork(t *testing.T, c *harness.Cell) {
	task := running(t, c)
	outside, ns := harness.NewNetNS(t), harness.OpenNetNS(t, int(task.PID))
	for range 2 {
		outside.Veth(t, "peer", []string{"10.98.0.1/24"}, ns, "eth0", []string{"10.98.0.2/24"})
		inGuest(t, task, "ip addr show eth0 | grep -q 10.98.0.2/24 && ping -c 1 -W 5 10.98.0.1")
		ns.Address(t, "eth0", "10.98.0.3/24")
		inGuest(t, task, "ip addr show eth0 | grep -q 10.98.0.3/24")
		link, err := outside.LinkByName("peer")
		if err == nil {
			err = outside.LinkDel(link)
		}
		if err != nil {
			t.Fatal(err)
		}
		inGuest(t, task, "! test -e /sys/class/net/eth0")
	}
}

// testReplacedNetwork replaces the interface of a container that runs by one that looks
// the same, while nobody looks, and then gives it another address: the container carries on.
func testReplacedNetwork(t *testing.T, c *harness.Cell) {
	task := running(t, c)
	shim, ok := c.Shim(task.Container.ID)
	if !ok {
		t.Fatal("the container has no shim")
	}
	outside, ns := harness.NewNetNS(t), harness.OpenNetNS(t, int(task.PID))
	const reached = "ip addr show eth0 | grep -q 10.98.0.2/24 && ping -c 1 -W 2 10.98.0.1"
	for i := range 3 {
		whileStopped(t, shim, func() {
			if i > 0 {
				if err := ns.LinkDel(link(t, ns, "eth0")); err != nil {
					t.Fatal(err)
				}
			}
			outside.VethOf(t, net.HardwareAddr{2, 0, 0, 0, 0, 7}, "peer", []string{"10.98.0.1/24"}, ns, "eth0", []string{"10.98.0.2/24"})
		})
		inGuest(t, task, reached)
	}
	if err := ns.LinkSetHardwareAddr(link(t, ns, "eth0"), net.HardwareAddr{2, 0, 0, 0, 0, 8}); err != nil {
		t.Fatal(err)
	}
	inGuest(t, task, "grep -q 02:00:00:00:00:08 /sys/class/net/eth0/address && "+reached)
}

// whileStopped does something while a process sees nothing of it.
func whileStopped(t *testing.T, p harness.Process, do func()) {
	t.Helper()
	if err := unix.Kill(p.PID, unix.SIGSTOP); err != nil {
		t.Fatalf("stopping %s: %v", p, err)
	}
	defer unix.Kill(p.PID, unix.SIGCONT)
	do()
}

// link is a link of a namespace.
func link(t *testing.T, ns *harness.NetNS, name string) netlink.Link {
	t.Helper()
	l, err := ns.LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// inGuest waits until a command succeeds in a task.
func inGuest(t *testing.T, task *harness.Task, command string) {
	t.Helper()
	script := fmt.Sprintf("for i in $(seq 100); do if %s; then exit 0; fi; sleep 0.2; done; ip addr; ip route; exit 1", command)
	if r := task.Shell(t, script); r.Status != 0 {
		t.Fatalf("%s: %+v", command, r)
	}
}

// testForwardedLoopback connects, on the host, to the loopback of a container's
// network namespace: what listens on the container's own is reached.
func testForwardedLoopback(t *testing.T, c *harness.Cell) {
	task := c.Container(t, harness.Sh(fmt.Sprintf(server, "127.0.0.1:8080 && httpd -h /tmp/www -p [::1]:8081"))).Create(t, harness.IO{})
	task.Start(t)
	task.Expect(t, "serving\n")
	ns := harness.OpenNetNS(t, int(task.PID))
	for address, network := range map[string]string{"127.0.0.1:8080": "tcp4", "[::1]:8081": "tcp6"} {
		wantPage(t, ns, network, address)
		// Where nobody listens the connection breaks.
		nobody := netip.AddrPortFrom(netip.MustParseAddrPort(address).Addr(), 81).String()
		if got, err := page(ns, network, nobody); err == nil {
			t.Errorf("%s answers %q", nobody, got)
		}
	}
}

// testNetworkMetrics has the counters of a container's interface grow by what it
// sends and gets.
func testNetworkMetrics(t *testing.T, c *harness.Cell) {
	_, ns := given(t)
	task := c.Container(t, inNetwork(ns), harness.Sh("echo ready; exec sleep 100000")).Create(t, harness.IO{})
	task.Start(t)
	task.Expect(t, "ready\n")
	before := interfaceMetrics(t, task, "eth7")
	const packets, size = 10, 1000
	if r := task.Shell(t, fmt.Sprintf("ping -c %d -s %d -i 0.1 -W 10 10.99.0.1", packets, size)); r.Status != 0 {
		t.Fatalf("ping: %+v", r)
	}
	after := interfaceMetrics(t, task, "eth7")
	for _, grown := range []struct {
		name           string
		packets, bytes uint64
	}{
		{"received", after.RxPackets - before.RxPackets, after.RxBytes - before.RxBytes},
		{"sent", after.TxPackets - before.TxPackets, after.TxBytes - before.TxBytes},
	} {
		if grown.packets < packets || grown.packets > 10*packets || grown.bytes < packets*size || grown.bytes > 10*packets*size {
			t.Errorf("%d packets of %d bytes were answered; %s: %d with %d bytes", packets, size, grown.name, grown.packets, grown.bytes)
		}
	}
}

// interfaceMetrics are the counters of an interface in a task's metrics.
func interfaceMetrics(t *testing.T, task *harness.Task, name string) *stats.NetworkStat {
	t.Helper()
	metric, err := task.Metrics(t)
	var m stats.Metrics
	if err == nil {
		err = proto.Unmarshal(metric.Data.GetValue(), &m)
	}
	if err != nil {
		t.Fatalf("the task's metrics: %v", err)
	}
	if len(m.Network) != 1 || m.Network[0].Name != name {
		t.Fatalf("the metrics are of the interfaces %v, not of %s alone", m.Network, name)
	}
	return m.Network[0]
}

// testTransfer sends through a card in each direction, and compares checksums.
func testTransfer(t *testing.T, c *harness.Cell) {
	const size = 32 << 20
	outside, ns := given(t)
	const listen = "nc -ll -p 7001 -e sha256sum & nc -ll -p 7002 -e cat /tmp/data & " +
		"for port in 1B59 1B5A; do until cat /proc/net/tcp /proc/net/tcp6 | grep -q :$port; do sleep 0.1; done; done; "
	task := c.Container(t, inNetwork(ns), harness.Sh("probe write "+itoa(size)+" 0 >/tmp/data; "+listen+"echo ready; exec sleep 100000"),
		harness.Mount("tmpfs", "tmpfs", "/tmp", "size=64m")).Create(t, harness.IO{})
	task.Start(t)
	task.Expect(t, "ready\n")
	sum := patternSum(size)

	conn, err := outside.Dial("tcp", "10.99.0.2:7002", harness.Soon)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(harness.Patience))
	data, err := io.ReadAll(conn)
	if got := fmt.Sprintf("%x", sha256.Sum256(data)); got != sum || err != nil {
		t.Fatalf("from the container came %d bytes with sum %s, %v; want %s", len(data), got, err, sum)
	}
	back, err := outside.Dial("tcp", "10.99.0.2:7001", harness.Soon)
	if err != nil {
		t.Fatal(err)
	}
	defer back.Close()
	back.SetDeadline(time.Now().Add(harness.Patience))
	if _, err := back.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := back.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if answer, err := io.ReadAll(back); err != nil || !strings.HasPrefix(string(answer), sum) {
		t.Errorf("to the container came what has sum %q, %v; want %s", answer, err, sum)
	}
}
