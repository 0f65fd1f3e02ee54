package network

import (
	"cmp"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/hyperhq/hyper/virtcontainers"
)

// network picks from the kernel's tables what the guest is to have.
func (t tables) network() virtcontainers.Network {
	links := t.given()
	var network virtcontainers.Network
	for _, link := range links {
		attrs := link.Attrs()
		i := virtcontainers.Interface{Index: attrs.Index, Name: attrs.Name, MTU: attrs.MTU, Addresses: t.addressesOf(link)}
		if isEthernet(link) {
			i.MAC = attrs.HardwareAddr
		}
		network.Interfaces = append(network.Interfaces, i)
	}
	network.Routes = t.routesOver(links, network.Interfaces)
	network.Neighbours = t.neighboursOn(links)
	return network
}

// given are the links that the guest gets, oldest first: CNI makes eth0 before
// what it adds to it.
func (t tables) given() []netlink.Link {
	addressed := make(map[int]bool)
	for _, a := range t.addresses {
		addressed[a.LinkIndex] = true
	}
	var links []netlink.Link
	for _, link := range t.links {
		attrs := link.Attrs()
		up := attrs.Flags&net.FlagUp != 0
		switch {
		case attrs.Flags&net.FlagLoopback != 0, link.Type() == "bridge", isTap(link):
		case attrs.MasterIndex != 0: // its frames are its master's
		case up || addressed[attrs.Index]:
			links = append(links, link)
		}
	}
	slices.SortFunc(links, func(a, b netlink.Link) int { return cmp.Compare(a.Attrs().Index, b.Attrs().Index) })
	return links
}

// tapPrefix and the index of a link is the name of the link's tap. The longest,
// hyper4294967295, is the longest name that a link can have.
const tapPrefix = "hyper"

func tapName(link int) string { return tapPrefix + strconv.Itoa(link) }

// isTap says whether a link is one of ours.
func isTap(link netlink.Link) bool {
	number, ours := strings.CutPrefix(link.Attrs().Name, tapPrefix)
	if !ours || link.Type() != "tuntap" {
		return false
	}
	_, err := strconv.ParseUint(number, 10, 32)
	return err == nil
}

func isEthernet(link netlink.Link) bool {
	return link.Attrs().EncapType == "ether" && len(link.Attrs().HardwareAddr) == 6
}

// addressesOf are the addresses of a link, IPv4 before IPv6. The first of several
// IPv4 addresses is the one that connections come from, so their order stays. The
// kernel's order of IPv6 ones depends on when each became usable and is no one's.
func (t tables) addressesOf(link netlink.Link) []netip.Prefix {
	var v4, v6 []netip.Prefix
	for _, a := range t.addresses {
		if a.LinkIndex != link.Attrs().Index {
			continue
		}
		prefix, ok := prefixOf(a.IPNet)
		if !ok || prefix.Addr().Is6() && madeByKernel(a, prefix.Addr(), link.Attrs().HardwareAddr) {
			continue
		}
		if link.Attrs().Flags&net.FlagUp != 0 && !t.hasKernelRoute(link, prefix.Masked()) {
			prefix = netip.PrefixFrom(prefix.Addr(), prefix.Addr().BitLen())
		}
		if prefix.Addr().Is4() {
			v4 = append(v4, prefix)
		} else {
			v6 = append(v6, prefix)
		}
	}
	slices.SortFunc(v6, netip.Prefix.Compare)
	return append(v4, v6...)
}

// madeByKernel says whether the kernel made an IPv6 address by itself: a link-local
// one, or one from a router's prefix. Only the flags and the form tell on kernels
// before Linux 5.18.
func madeByKernel(a netlink.Addr, address netip.Addr, mac net.HardwareAddr) bool {
	if a.Flags&(unix.IFA_F_STABLE_PRIVACY|unix.IFA_F_TEMPORARY) != 0 {
		return true
	}
	if !address.IsLinkLocalUnicast() && a.Flags&unix.IFA_F_PERMANENT != 0 {
		return false
	}
	bytes := address.As16()
	return len(mac) == 6 && [8]byte(bytes[8:]) == eui64(mac)
}

// eui64 is the interface identifier that a MAC gives (RFC 4291, appendix A).
func eui64(mac net.HardwareAddr) [8]byte {
	return [8]byte{mac[0] ^ 2, mac[1], mac[2], 0xff, 0xfe, mac[3], mac[4], mac[5]}
}

// prefixOf is p as netip has it.
func prefixOf(p *net.IPNet) (netip.Prefix, bool) {
	if p == nil {
		return netip.Prefix{}, false
	}
	address, ok := netip.AddrFromSlice(p.IP)
	bits, size := p.Mask.Size()
	if size == 32 { // net.IPv4zero, a default route's, is of 16 bytes
		address = address.Unmap()
	}
	if !ok || size != address.BitLen() {
		return netip.Prefix{}, false
	}
	return netip.PrefixFrom(address, bits), true
}
