package agent

import (
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/containerd/errdefs"

	agentv1 "github.com/hyperhq/hyper/proto/hyper/agent/v1"
)

const (
	maxLinks       = 64
	maxAddresses   = 256 // of one interface
	maxRoutes      = 1024
	maxNeighbours  = 1024
	maxLinkName    = 15
	minMTU, maxMTU = 68, 65535 // what IPv4 needs, and what fits into a packet
)

// macAddress is an Ethernet address that can be compared.
type macAddress [6]byte

func (m macAddress) String() string { return net.HardwareAddr(m[:]).String() }

// wantedNetwork is a SetNetworkRequest that has been found to be sound.
type wantedNetwork struct {
	links      []wantedLink
	routes     []wantedRoute
	neighbours []wantedNeighbour
}

type wantedLink struct {
	mac       macAddress
	name      string
	mtu       int // 0: as it is
	addresses []netip.Prefix
}

type wantedRoute struct {
	destination     netip.Prefix
	gateway, source netip.Addr // the zero Addr: none
	link            string
	scope           uint8
	metric          uint32
	onLink          bool
}

type wantedNeighbour struct {
	address netip.Addr
	mac     macAddress
	link    string
}

// parseNetwork validates a request. Its errors name the field.
func parseNetwork(req *agentv1.SetNetworkRequest) (*wantedNetwork, error) {
	for _, list := range []struct {
		field    string
		len, max int
	}{
		{"interfaces", len(req.GetInterfaces()), maxLinks},
		{"routes", len(req.GetRoutes()), maxRoutes},
		{"neighbours", len(req.GetNeighbours()), maxNeighbours},
	} {
		if list.len > list.max {
			return nil, fmt.Errorf("%s: %d, at most %d: %w", list.field, list.len, list.max, errdefs.ErrInvalidArgument)
		}
	}
	w := &wantedNetwork{}
	names, macs := map[string]bool{}, map[macAddress]bool{}
	for i, in := range req.GetInterfaces() {
		l, err := parseInterface(in)
		if err == nil && (names[l.name] || macs[l.mac]) {
			err = fmt.Errorf("the name %s or the MAC address %s is given twice: %w", l.name, l.mac, errdefs.ErrInvalidArgument)
		}
		if err != nil {
			return nil, fmt.Errorf("interfaces[%d].%w", i, err)
		}
		names[l.name], macs[l.mac] = true, true
		w.links = append(w.links, l)
	}
	for i, in := range req.GetRoutes() {
		r, err := parseRoute(in, names)
		if err != nil {
			return nil, fmt.Errorf("routes[%d].%w", i, err)
		}
		w.routes = append(w.routes, r)
	}
	for i, in := range req.GetNeighbours() {
		n, err := parseNeighbour(in, names)
		if err != nil {
			return nil, fmt.Errorf("neighbours[%d].%w", i, err)
		}
		w.neighbours = append(w.neighbours, n)
	}
	return w, nil
}

func parseInterface(in *agentv1.Interface) (l wantedLink, err error) {
	if l.mac, err = parseMAC(in.GetMac()); err != nil {
		return l, err
	}
	if err := validateLinkName(in.GetName()); err != nil {
		return l, fmt.Errorf("name: %w", err)
	}
	l.name = in.GetName()
	if mtu := in.GetMtu(); mtu != 0 && (mtu < minMTU || mtu > maxMTU) {
		return l, fmt.Errorf("mtu: %d is not in %d to %d: %w", mtu, minMTU, maxMTU, errdefs.ErrInvalidArgument)
	}
	l.mtu = int(in.GetMtu())
	if n := len(in.GetAddresses()); n > maxAddresses {
		return l, fmt.Errorf("addresses: %d, at most %d: %w", n, maxAddresses, errdefs.ErrInvalidArgument)
	}
	for i, text := range in.GetAddresses() {
		p, err := netip.ParsePrefix(text)
		if err == nil {
			err = validateUnicast(p.Addr())
		}
		if err != nil {
			return l, fmt.Errorf("addresses[%d]: %.60q: %v: %w", i, text, err, errdefs.ErrInvalidArgument)
		}
		l.addresses = append(l.addresses, p)
	}
	return l, nil
}

func parseRoute(in *agentv1.Route, links map[string]bool) (r wantedRoute, err error) {
	r.destination, err = netip.ParsePrefix(in.GetDestination())
	if err == nil && (r.destination != r.destination.Masked() || r.destination.Addr().Is4In6()) {
		err = fmt.Errorf("want a network, such as %v", r.destination.Masked())
	}
	if err != nil {
		return r, fmt.Errorf("destination: %.60q: %v: %w", in.GetDestination(), err, errdefs.ErrInvalidArgument)
	}
	if r.gateway, err = parseRouteAddr(in.GetGateway(), r.destination); err != nil {
		return r, fmt.Errorf("gateway: %w", err)
	}
	if r.source, err = parseRouteAddr(in.GetSource(), r.destination); err != nil {
		return r, fmt.Errorf("source: %w", err)
	}
	if r.link = in.GetInterface(); !links[r.link] {
		return r, errNoSuchInterface(r.link)
	}
	if in.GetScope() > 255 {
		return r, fmt.Errorf("scope: %d is more than 255: %w", in.GetScope(), errdefs.ErrInvalidArgument)
	}
	r.scope, r.metric, r.onLink = uint8(in.GetScope()), in.GetMetric(), in.GetOnLink()
	if r.destination.Addr().Is6() {
		r.scope = 0 // the kernel has none there
		if r.metric == 0 {
			r.metric = defaultMetric6
		}
	}
	return r, nil
}

// defaultMetric6 is what the kernel makes of an IPv6 route's metric 0.
const defaultMetric6 = 1024

// parseRouteAddr parses an address that may be left out, of destination's family.
func parseRouteAddr(text string, destination netip.Prefix) (netip.Addr, error) {
	if text == "" {
		return netip.Addr{}, nil
	}
	a, err := netip.ParseAddr(text)
	if err == nil {
		err = validateUnicast(a)
	}
	if err == nil && a.Is4() != destination.Addr().Is4() {
		err = fmt.Errorf("not of the family of %v", destination)
	}
	if err != nil {
		return a, fmt.Errorf("%.60q: %v: %w", text, err, errdefs.ErrInvalidArgument)
	}
	return a, nil
}

func parseNeighbour(in *agentv1.Neighbour, links map[string]bool) (n wantedNeighbour, err error) {
	n.address, err = netip.ParseAddr(in.GetAddress())
	if err == nil {
		err = validateUnicast(n.address)
	}
	if err != nil {
		return n, fmt.Errorf("address: %.60q: %v: %w", in.GetAddress(), err, errdefs.ErrInvalidArgument)
	}
	if n.mac, err = parseMAC(in.GetMac()); err != nil {
		return n, err
	}
	if n.link = in.GetInterface(); !links[n.link] {
		return n, errNoSuchInterface(n.link)
	}
	return n, nil
}

func errNoSuchInterface(name string) error {
	return fmt.Errorf("interface: %.40q is none of the request's interfaces: %w", name, errdefs.ErrInvalidArgument)
}

// parseMAC parses the address of one Ethernet station, as 02:00:00:00:00:01.
func parseMAC(text string) (m macAddress, err error) {
	hw, err := net.ParseMAC(text)
	if err != nil || len(hw) != len(m) || !strings.EqualFold(hw.String(), text) {
		return m, fmt.Errorf("mac: %.40q: want a form like 02:00:00:00:00:01: %w", text, errdefs.ErrInvalidArgument)
	}
	copy(m[:], hw)
	if m == (macAddress{}) || m[0]&1 != 0 {
		return m, fmt.Errorf("mac: %s is no address of a station: %w", m, errdefs.ErrInvalidArgument)
	}
	return m, nil
}

// validateLinkName refuses what the kernel refuses as an interface's name or
// takes for a pattern, and what means something else below /proc/sys/net.
func validateLinkName(name string) error {
	switch name {
	case "", ".", "..", "lo", "all", "default":
		return fmt.Errorf("%q cannot be given to an interface: %w", name, errdefs.ErrInvalidArgument)
	}
	if len(name) > maxLinkName {
		return fmt.Errorf("%.40q has more than %d bytes: %w", name, maxLinkName, errdefs.ErrInvalidArgument)
	}
	for _, c := range []byte(name) {
		if c <= ' ' || c > '~' || c == '/' || c == ':' || c == '%' {
			return fmt.Errorf("%q has a character that interface names cannot have: %w", name, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

func validateUnicast(a netip.Addr) error {
	if a.IsUnspecified() || a.IsMulticast() || a.Is4In6() || a.Zone() != "" {
		return fmt.Errorf("not an address of one station, without a zone")
	}
	return nil
}
