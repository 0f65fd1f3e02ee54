package cri

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hyperhq/hyper/test/harness"
	"github.com/hyperhq/hyper/test/traffic"
)

// trafficPort is where both ends serve.
const trafficPort = "7010"

// exchanging makes a pod that serves, and has the node serve at its end of the bridge.
func exchanging(t *testing.T, n *node) (c *container, addresses []string) {
	t.Helper()
	p := n.shared(t)
	c = p.run(t, []string{"probe", "serve", ":" + trafficPort})
	c.await(t, "serving")
	for _, ip := range []string{harness.PodGateway4, harness.PodGateway6} {
		n.serveTraffic(t, net.JoinHostPort(ip, trafficPort))
	}
	ip4, ip6 := p.addresses(t)
	return c, []string{net.JoinHostPort(ip4, trafficPort), net.JoinHostPort(ip6, trafficPort)}
}

// gateways are the node's addresses at the bridge, of each family.
func gateways() []string {
	return []string{net.JoinHostPort(harness.PodGateway4, trafficPort), net.JoinHostPort(harness.PodGateway6, trafficPort)}
}

// serveTraffic serves at an address of the node until the test ends.
func (n *node) serveTraffic(t *testing.T, address string) {
	t.Helper()
	var l net.Listener
	var packets net.PacketConn
	n.in(t, func() (err error) {
		if l, err = net.Listen("tcp", address); err == nil {
			packets, err = net.ListenPacket("udp", address)
		}
		return err
	})
	served := make(chan error, 1)
	go func() { served <- traffic.Serve(l, packets) }()
	t.Cleanup(func() {
		l.Close()
		if err := <-served; err != nil {
			t.Errorf("serving at %s: %v", address, err)
		}
	})
}

// testDatagrams sends datagrams from the node to a pod and from the pod to the node:
// short ones, such as fill a packet, and such as are sent in several.
func testDatagrams(t *testing.T, n *node) {
	c, addresses := exchanging(t, n)
	const count = 10
	for i, header := range []int{20 + 8, 40 + 8} {
		sizes := []int{1, harness.PodMTU - header, 8 << 10, 60000}
		for _, size := range sizes {
			var lost int
			err := n.network.Do(func() (err error) {
				lost, err = traffic.Datagrams(addresses[i], size, count)
				return err
			})
			if lost != 0 || err != nil {
				t.Errorf("of %d datagrams of %d bytes to %s %d were lost, %v", count, size, addresses[i], lost, err)
			}
		}
		script := fmt.Sprintf("for size in %s; do probe datagrams %s %d $size || exit; done", strings.Trim(fmt.Sprint(sizes), "[]"), gateways()[i], count)
		if got := c.sh(t, script); got != "0\n0\n0\n0" {
			t.Errorf("of %d datagrams each of %d bytes to %s were lost %q", count, sizes, gateways()[i], got)
		}
	}
	for _, gateway := range []string{harness.PodGateway4, harness.PodGateway6} {
		const echoes = 10
		got := c.exec(t, "ping", "-c", strconv.Itoa(echoes), "-i", "0.1", "-W", "10", "-s", "1400", gateway)
		if !strings.Contains(got, fmt.Sprintf(" %d packets received", echoes)) {
			t.Errorf("of %d echo requests of 1400 bytes: %s", echoes, got)
		}
	}
}

// testOffloads has the guest leave to its card what the host's end need not do: a
// large segment goes through whole, though the MTU is small.
func testOffloads(t *testing.T, n *node) {
	c, addresses := exchanging(t, n)
	if got := c.exec(t, "probe", "offloads", "eth0"); got != "rx-checksum\ntx-checksum\nscatter-gather\ntso" {
		t.Errorf("the guest's interface leaves to its card %q", got)
	}
	before := c.counters(t)
	const size = 32 << 20
	n.in(t, func() error { return traffic.Fetch(addresses[0], size, patience) })
	n.in(t, func() error { return traffic.Deliver(addresses[0], size, patience) })
	after := c.counters(t)
	for _, direction := range []string{"tx", "rx"} {
		bytes := after[direction+"_bytes"] - before[direction+"_bytes"]
		packets := after[direction+"_packets"] - before[direction+"_packets"]
		if bytes < size || packets == 0 || bytes/packets <= 2*harness.PodMTU {
			t.Errorf("%s: %d bytes in %d packets, of which none was larger than the MTU of %d", direction, bytes, packets, harness.PodMTU)
		}
	}
	if got := c.exec(t, "cat", "/sys/class/net/eth0/mtu"); got != strconv.Itoa(harness.PodMTU) {
		t.Errorf("the guest's MTU is %s", got)
	}
}

// counters are what the guest's interface has carried.
func (c *container) counters(t *testing.T) map[string]int {
	t.Helper()
	all := make(map[string]int)
	for line := range strings.Lines(c.sh(t, "cd /sys/class/net/eth0/statistics && grep -H . [rt]x_bytes [rt]x_packets")) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		n, err := strconv.Atoi(value)
		if err != nil {
			t.Fatalf("the counter %q: %v", line, err)
		}
		all[name] = n
	}
	return all
}

// testHeavyTransfer sends a GiB in each direction and compares every byte, and then
// makes a thousand connections in each.
func testHeavyTransfer(t *testing.T, n *node) {
	if os.Getenv("HYPER_TEST_LONG") == "" {
		t.Skip("takes minutes: `make test-long`")
	}
	c, addresses := exchanging(t, n)
	const limit = 5 * time.Minute
	for i, size := range []int64{1 << 30, 64 << 20} {
		for name, transfer := range map[string]func(string, int64, time.Duration) error{"from": traffic.Fetch, "to": traffic.Deliver} {
			begin := time.Now()
			if err := n.network.Do(func() error { return transfer(addresses[i], size, limit) }); err != nil {
				t.Errorf("%d MiB %s %s: %v", size>>20, name, addresses[i], err)
				continue
			}
			t.Logf("%d MiB %s %s: %.0f MB/s", size>>20, name, addresses[i], float64(size)/1e6/time.Since(begin).Seconds())
		}
	}
	const connections, each = 1000, 250 // each: of one exec, which has half a minute
	for i, gateway := range gateways() {
		begin := time.Now()
		if err := n.network.Do(func() error { return traffic.Connect(addresses[i], connections) }); err != nil {
			t.Errorf("connecting to %s: %v", addresses[i], err)
		}
		middle := time.Now()
		for range connections / each {
			c.exec(t, "probe", "connections", gateway, strconv.Itoa(each))
		}
		t.Logf("%d connections to %s: %v; from it: %v", connections, addresses[i], middle.Sub(begin), time.Since(middle))
	}
}
