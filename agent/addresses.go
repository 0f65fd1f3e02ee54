package agent

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// removeAddresses removes those of an interface that are not wanted.
func (k *kernelNetwork) removeAddresses(w wantedLink) error {
	link := k.links[w.name]
	have, err := k.addresses(link)
	if err != nil {
		return err
	}
	for _, a := range have {
		if p, ok := prefixOf(a.IPNet); ok && (slices.Contains(w.addresses, p) || madeByKernel(a, p, w.mac)) {
			continue
		}
		// It may have gone as the secondary of one that was removed.
		if err := k.h.AddrDel(link, &a); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return fmt.Errorf("removing address %v from interface %s: %w", a.IPNet, w.name, err)
		}
	}
	return nil
}

// addAddresses adds those to an interface that are wanted.
func (k *kernelNetwork) addAddresses(w wantedLink) error {
	link := k.links[w.name]
	have, err := k.addresses(link)
	if err != nil {
		return err
	}
	for _, p := range w.addresses {
		if slices.ContainsFunc(have, func(a netlink.Addr) bool { got, ok := prefixOf(a.IPNet); return ok && got == p }) {
			continue
		}
		addr := &netlink.Addr{IPNet: ipNet(p)}
		if p.Addr().Is6() {
			// Usable at once: that it is nobody else's is the host's word.
			addr.Flags = unix.IFA_F_NODAD
		}
		if err := k.h.AddrAdd(link, addr); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("adding address %v to interface %s: %w", p, w.name, err)
		}
	}
	return nil
}

func (k *kernelNetwork) addresses(l netlink.Link) ([]netlink.Addr, error) {
	return dump("addresses of interface "+l.Attrs().Name, func() ([]netlink.Addr, error) {
		return k.h.AddrList(l, netlink.FAMILY_ALL)
	})
}

// madeByKernel tells addresses that the kernel gave an interface by itself: of a
// router's advertisement, and the link-local one of its MAC address.
func madeByKernel(a netlink.Addr, p netip.Prefix, mac macAddress) bool {
	if !p.Addr().Is6() {
		return false
	}
	return a.Flags&unix.IFA_F_PERMANENT == 0 || p == linkLocal(mac)
}

// linkLocal is the address that an interface with this MAC address gives itself
// (RFC 4291, appendix A).
func linkLocal(mac macAddress) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom16([16]byte{
		0: 0xfe, 1: 0x80,
		8: mac[0] ^ 2, 9: mac[1], 10: mac[2], 11: 0xff, 12: 0xfe, 13: mac[3], 14: mac[4], 15: mac[5],
	}), 64)
}

// prefixOf translates the netlink package's form, which is nil for none.
func prefixOf(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	addr, ok := netip.AddrFromSlice(n.IP)
	ones, bits := n.Mask.Size()
	if bits == 32 {
		addr = addr.Unmap()
	}
	if !ok || bits != addr.BitLen() {
		return netip.Prefix{}, false
	}
	return netip.PrefixFrom(addr, ones), true
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
