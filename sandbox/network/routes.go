package network

import (
	"cmp"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/hyperhq/hyper/virtcontainers"
)

// hasKernelRoute says whether the main table has the route that comes with an
// address of that network. A route of an IPv4 host is in the local table only.
func (t tables) hasKernelRoute(link netlink.Link, network netip.Prefix) bool {
	return slices.ContainsFunc(t.routes, func(r netlink.Route) bool {
		destination, ok := prefixOf(r.Dst)
		return ok && r.Protocol == unix.RTPROT_KERNEL && r.LinkIndex == link.Attrs().Index && destination == network
	})
}

// routesOver are the routes that leave by the given links.
func (t tables) routesOver(links []netlink.Link, interfaces []virtcontainers.Interface) []virtcontainers.Route {
	byIndex := make(map[int]virtcontainers.Interface)
	for i, link := range links {
		byIndex[link.Attrs().Index] = interfaces[i]
	}
	var routes []virtcontainers.Route
	for _, r := range t.routes {
		destination, ok := prefixOf(r.Dst)
		if !ok || r.Type != unix.RTN_UNICAST || destination.Addr().IsMulticast() || fromRouter(r) {
			continue
		}
		hop, ok := firstHop(r)
		over, known := byIndex[hop.LinkIndex]
		if !ok || !known || r.Protocol == unix.RTPROT_KERNEL && comesWithAddress(destination, over) {
			continue
		}
		routes = append(routes, virtcontainers.Route{
			Destination: destination,
			Gateway:     gateway(hop),
			Source:      addressOf(r.Src),
			Interface:   over.Name,
			Scope:       uint8(r.Scope),
			Metric:      r.Priority,
			OnLink:      hop.Flags&unix.RTNH_F_ONLINK != 0,
		})
	}
	slices.SortFunc(routes, compareRoutes)
	return routes
}

// fromRouter says whether a route was learned from a router's messages. The
// namespace no longer hears them, and the guest does.
func fromRouter(r netlink.Route) bool {
	return r.Protocol == unix.RTPROT_RA || r.Protocol == unix.RTPROT_REDIRECT
}

// comesWithAddress says whether a guest's kernel makes the route by itself.
func comesWithAddress(destination netip.Prefix, over virtcontainers.Interface) bool {
	return destination == netip.MustParsePrefix("fe80::/64") ||
		slices.ContainsFunc(over.Addresses, func(a netip.Prefix) bool { return a.Masked() == destination })
}

// firstHop is where a route goes, and the first of several ways.
func firstHop(r netlink.Route) (netlink.NexthopInfo, bool) {
	if len(r.MultiPath) > 0 {
		return *r.MultiPath[0], true
	}
	return netlink.NexthopInfo{LinkIndex: r.LinkIndex, Gw: r.Gw, Via: r.Via, Flags: r.Flags}, r.LinkIndex != 0
}

// gateway may be of IPv6 for a route of IPv4.
func gateway(hop netlink.NexthopInfo) netip.Addr {
	if via, ok := hop.Via.(*netlink.Via); ok {
		return addressOf(via.Addr)
	}
	return addressOf(hop.Gw)
}

func addressOf(ip net.IP) netip.Addr {
	address, _ := netip.AddrFromSlice(ip)
	return address
}

// compareRoutes puts routes on the link before those whose gateway they reach,
// IPv4 before IPv6, and narrow ones before wide ones.
func compareRoutes(a, b virtcontainers.Route) int {
	onLink := func(r virtcontainers.Route) int {
		if r.Gateway.IsValid() {
			return 1
		}
		return 0
	}
	return cmp.Or(
		cmp.Compare(onLink(a), onLink(b)),
		cmp.Compare(a.Destination.Addr().BitLen(), b.Destination.Addr().BitLen()),
		cmp.Compare(b.Destination.Bits(), a.Destination.Bits()),
		a.Destination.Addr().Compare(b.Destination.Addr()),
		cmp.Compare(a.Metric, b.Metric),
		cmp.Compare(a.Interface, b.Interface),
		a.Gateway.Compare(b.Gateway),
		a.Source.Compare(b.Source),
	)
}
