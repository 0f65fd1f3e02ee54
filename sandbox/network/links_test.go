package network

import (
	"net"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func TestMadeByKernel(t *testing.T) {
	const permanent = unix.IFA_F_PERMANENT
	tests := []struct {
		name    string
		address string
		flags   int
		want    bool
	}{
		{"the link's own link-local", "fe80::ff:fe00:5", permanent, true},
		{"a link-local of somebody's choice", "fe80::5", permanent, false},
		{"a link-local made from a secret", "fe80::1234:5678:9abc:def0", permanent | unix.IFA_F_STABLE_PRIVACY, true},
		{"from a router's prefix", "2001:db8::ff:fe00:5", 0, true},
		{"from a router's prefix, for a while", "2001:db8::1234:5678:9abc:def0", unix.IFA_F_TEMPORARY, true},
		{"configured in the form of a router's", "2001:db8::ff:fe00:5", permanent, false},
		{"configured", "2001:db8::5", permanent, false},
		{"configured for a while", "2001:db8::5", 0, false},
	}
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 5}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got := madeByKernel(netlink.Addr{Flags: test.flags}, netip.MustParseAddr(test.address), mac)
			if got != test.want {
				t.Errorf("madeByKernel(%s) = %t", test.address, got)
			}
		})
	}
}

func TestIsTap(t *testing.T) {
	tests := map[string]bool{"hyper2": true, "hyper4294967295": true, "hyper": false, "hyperx": false, "tap0": false}
	for name, want := range tests {
		link := &netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: name}}
		if got := isTap(link); got != want {
			t.Errorf("isTap(%s) = %t", name, got)
		}
	}
	if isTap(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "hyper2"}}) {
		t.Error("a veth is taken for a tap of ours")
	}
}
