package network

import (
	"fmt"
	"strings"
	"testing"

	"github.com/hyperhq/hyper/virtcontainers"
)

func TestRead(t *testing.T) {
	const neighbour = "neigh add 10.88.0.1 lladdr 02:00:00:00:00:01 dev eth0 nud permanent\n"
	tests := []struct {
		name      string
		configure string
		want      string
	}{
		{
			name: "an interface without addresses",
			want: "eth0 02:00:00:00:00:05 1500\n",
		},
		{
			name: "as the bridge plugin leaves it",
			configure: `
				link set eth0 mtu 1450
				addr add 10.88.0.5/24 dev eth0
				addr add 2001:db8::5/64 dev eth0 nodad
				route add default via 10.88.0.1
				route add 10.96.0.0/16 via 10.88.0.1 src 10.88.0.5 metric 7
				route add default via 2001:db8::1`,
			want: `eth0 02:00:00:00:00:05 1450 10.88.0.5/24 2001:db8::5/64
				10.96.0.0/16 via 10.88.0.1 src 10.88.0.5 eth0 scope 0 metric 7
				0.0.0.0/0 via 10.88.0.1 eth0 scope 0 metric 0
				::/0 via 2001:db8::1 eth0 scope 0 metric 1024`,
		},
		{
			name: "as the ptp plugin leaves it: the subnet is reached through the gateway",
			configure: `
				addr add 10.88.0.5/24 dev eth0
				route del 10.88.0.0/24 dev eth0
				route add 10.88.0.1/32 dev eth0 scope link src 10.88.0.5
				route add 10.88.0.0/24 via 10.88.0.1 src 10.88.0.5
				route add default via 10.88.0.1`,
			want: `eth0 02:00:00:00:00:05 1500 10.88.0.5/32
				10.88.0.1/32 src 10.88.0.5 eth0 scope 253 metric 0
				10.88.0.0/24 via 10.88.0.1 src 10.88.0.5 eth0 scope 0 metric 0
				0.0.0.0/0 via 10.88.0.1 eth0 scope 0 metric 0`,
		},
		{
			name: "a gateway that has no route, and a neighbour that does not answer",
			configure: `
				addr add 10.88.0.5/32 dev eth0
				route add default via 169.254.1.1 dev eth0 onlink
				neigh add 169.254.1.1 lladdr 02:00:00:00:00:01 dev eth0 nud permanent
				neigh add fe80::1 lladdr 02:00:00:00:00:01 dev eth0 nud permanent
				neigh add 10.88.0.9 lladdr 02:00:00:00:00:09 dev eth0 nud stale`,
			want: `eth0 02:00:00:00:00:05 1500 10.88.0.5/32
				0.0.0.0/0 via 169.254.1.1 eth0 scope 0 metric 0 onlink
				neighbour 169.254.1.1 02:00:00:00:00:01 eth0
				neighbour fe80::1 02:00:00:00:00:01 eth0`,
		},
		{
			name: "several addresses in their order, one of them with a peer",
			configure: `
				addr add 10.88.0.9/24 dev eth0
				addr add 10.88.0.5/24 dev eth0
				addr add 10.99.0.1 peer 10.99.0.2/32 dev eth0
				addr add fe80::5/64 dev eth0 nodad
				addr add 2001:db8::9/64 dev eth0 nodad
				addr add 2001:db8::5/64 dev eth0 nodad
				route add 10.97.0.0/16 via 10.99.0.2`,
			want: `eth0 02:00:00:00:00:05 1500 10.88.0.9/24 10.99.0.1/32 10.88.0.5/24 2001:db8::5/64 2001:db8::9/64 fe80::5/64
				10.99.0.2/32 src 10.99.0.1 eth0 scope 253 metric 0
				10.97.0.0/16 via 10.99.0.2 eth0 scope 0 metric 0`,
		},
		{
			name: "what a guest does not get",
			configure: `
				addr add 10.88.0.5/24 dev eth0
				link add br0 type bridge
				link add inside type veth peer name outside
				link set inside master br0
				link set inside up
				link set br0 up
				addr add 172.17.0.1/16 dev br0
				route add 10.1.0.0/16 via 172.17.0.2
				route add blackhole 10.2.0.0/16
				route add 10.3.0.0/16 via 10.88.0.1 table 100
				route add 10.4.0.0/16 via 10.88.0.1 proto ra`,
			want: `eth0 02:00:00:00:00:05 1500 10.88.0.5/24`,
		},
		{
			name: "a second interface, down with an address, and a route over both",
			configure: `
				addr add 10.88.0.5/24 dev eth0
				link add net1 address 02:00:00:00:00:06 type veth peer name other
				addr add 10.89.0.5/24 dev net1
				route add 10.5.0.0/16 nexthop via 10.88.0.1 nexthop via 10.88.0.2
				` + neighbour,
			want: `eth0 02:00:00:00:00:05 1500 10.88.0.5/24
				net1 02:00:00:00:00:06 1500 10.89.0.5/24
				10.5.0.0/16 via 10.88.0.1 eth0 scope 0 metric 0
				neighbour 10.88.0.1 02:00:00:00:00:01 eth0`,
		},
		{
			name: "a link without Ethernet frames",
			configure: `
				tuntap add tun0 mode tun
				link set tun0 up
				addr add 10.90.0.5/24 dev tun0`,
			want: `eth0 02:00:00:00:00:05 1500
				tun0  1500 10.90.0.5/24`,
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			pod, _ := newPod(t)
			ip(t, pod, test.configure)
			checkNetwork(t, pod, test.want)
		})
	}
}

// checkNetwork checks what Read says, in the words of describe.
func checkNetwork(t *testing.T, n *Namespace, want string) {
	t.Helper()
	network, err := n.Read()
	if err != nil {
		t.Fatal(err)
	}
	if got, want := describe(network), unindent(want); got != want {
		t.Errorf("Read says\n%s\nand should say\n%s", got, want)
	}
}

// describe is a network in words, one thing a line.
func describe(n virtcontainers.Network) string {
	var b strings.Builder
	for _, i := range n.Interfaces {
		fmt.Fprintf(&b, "%s %s %d", i.Name, i.MAC, i.MTU)
		for _, a := range i.Addresses {
			fmt.Fprintf(&b, " %s", a)
		}
		b.WriteByte('\n')
	}
	for _, r := range n.Routes {
		fmt.Fprint(&b, r.Destination)
		if r.Gateway.IsValid() {
			fmt.Fprintf(&b, " via %s", r.Gateway)
		}
		if r.Source.IsValid() {
			fmt.Fprintf(&b, " src %s", r.Source)
		}
		fmt.Fprintf(&b, " %s scope %d metric %d", r.Interface, r.Scope, r.Metric)
		if r.OnLink {
			b.WriteString(" onlink")
		}
		b.WriteByte('\n')
	}
	for _, n := range n.Neighbours {
		fmt.Fprintf(&b, "neighbour %s %s %s\n", n.Address, n.MAC, n.Interface)
	}
	return b.String()
}

func unindent(s string) string {
	var b strings.Builder
	for line := range strings.Lines(s) {
		fmt.Fprintf(&b, "%s\n", strings.TrimSpace(line))
	}
	return b.String()
}
