package agent

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// routeKey is what a kernel keeps one route of, unless it is told to append.
type routeKey struct {
	destination netip.Prefix
	metric      uint32
}

func (r wantedRoute) key() routeKey { return routeKey{r.destination, r.metric} }

// kernelRoute is a route that the kernel has.
type kernelRoute struct {
	wantedRoute
	tos      int
	protocol netlink.RouteProtocol
}

// applyRoutes makes the routes through the interfaces those that are wanted, in
// their order, for a gateway may need a route of its own. Those that are not
// wanted go last, so that none is missing in between.
func (k *kernelNetwork) applyRoutes(want []wantedRoute) error {
	have, err := k.routes()
	if err != nil {
		return err
	}
	alike := map[routeKey]int{}
	for _, w := range want {
		alike[w.key()]++
	}
	for i, w := range want {
		if hasRoute(have, w) || slices.Contains(want[:i], w) {
			continue
		}
		put := k.h.RouteReplace
		if alike[w.key()] > 1 {
			put = k.h.RouteAppend // it must not take another wanted one's place
		}
		if err := put(k.netlinkRoute(w)); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("adding the route to %v through interface %s: %w", w.destination, w.link, err)
		}
	}
	return k.removeRoutes(want)
}

func (k *kernelNetwork) removeRoutes(want []wantedRoute) error {
	have, err := k.routes()
	if err != nil {
		return err
	}
	for _, r := range have {
		if r.madeByKernel() || slices.Contains(want, r.wantedRoute) {
			continue
		}
		del := k.netlinkRoute(r.wantedRoute)
		del.Tos, del.Protocol = r.tos, r.protocol
		if err := k.h.RouteDel(del); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("removing the route to %v through interface %s: %w", r.destination, r.link, err)
		}
	}
	return nil
}

// madeByKernel tells routes that came with an address, or from a router.
func (r kernelRoute) madeByKernel() bool {
	switch r.protocol {
	case unix.RTPROT_KERNEL, unix.RTPROT_RA, unix.RTPROT_REDIRECT:
		return true
	}
	return false
}

func hasRoute(have []kernelRoute, w wantedRoute) bool {
	return slices.ContainsFunc(have, func(r kernelRoute) bool { return r.wantedRoute == w })
}

// routes lists the main table's routes through the interfaces that were asked
// for. Of an IPv6 route with several gateways each is a route.
func (k *kernelNetwork) routes() ([]kernelRoute, error) {
	names := map[int]string{}
	for name, l := range k.links {
		names[l.Attrs().Index] = name
	}
	var found []kernelRoute
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		list, err := dump("routes", func() ([]netlink.Route, error) {
			return k.h.RouteListFiltered(family, &netlink.Route{}, 0)
		})
		if err != nil {
			return nil, err
		}
		for _, r := range list {
			for _, one := range singleRoutes(r) {
				if p, ok := parseKernelRoute(one, names); ok {
					found = append(found, p)
				}
			}
		}
	}
	return found, nil
}

func singleRoutes(r netlink.Route) []netlink.Route {
	if len(r.MultiPath) == 0 || r.Family != netlink.FAMILY_V6 {
		return []netlink.Route{r}
	}
	var list []netlink.Route
	for _, hop := range r.MultiPath {
		one := r
		one.MultiPath, one.LinkIndex, one.Gw, one.Flags = nil, hop.LinkIndex, hop.Gw, hop.Flags
		list = append(list, one)
	}
	return list
}

func parseKernelRoute(r netlink.Route, names map[int]string) (k kernelRoute, ok bool) {
	if k.destination, ok = prefixOf(r.Dst); !ok {
		return k, false
	}
	if k.link, ok = names[r.LinkIndex]; !ok {
		return k, false
	}
	if gw, ok := netip.AddrFromSlice(r.Gw); ok {
		k.gateway = gw
	}
	if src, ok := netip.AddrFromSlice(r.Src); ok {
		k.source = src
	}
	if r.Family == netlink.FAMILY_V4 {
		k.scope = uint8(r.Scope)
	}
	k.metric = uint32(r.Priority)
	k.onLink = r.Flags&unix.RTNH_F_ONLINK != 0
	k.tos, k.protocol = r.Tos, r.Protocol
	return k, true
}

func (k *kernelNetwork) netlinkRoute(w wantedRoute) *netlink.Route {
	r := &netlink.Route{
		LinkIndex: k.links[w.link].Attrs().Index,
		Dst:       ipNet(w.destination),
		Scope:     netlink.Scope(w.scope),
		Priority:  int(w.metric),
		Protocol:  unix.RTPROT_STATIC,
		Gw:        w.gateway.AsSlice(), // nil if there is none
		Src:       w.source.AsSlice(),
	}
	if w.onLink {
		r.Flags = unix.RTNH_F_ONLINK
	}
	return r
}
