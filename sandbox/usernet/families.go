package usernet

import (
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Families says by which of the two internet protocols there is a way out.
type Families struct{ IPv4, IPv6 bool }

func (f Families) String() string {
	switch {
	case f.IPv4 && f.IPv6:
		return "IPv4 and IPv6"
	case f.IPv6:
		return "IPv6"
	}
	return "IPv4"
}

// hostFamilies are those of which the host has a default route. It is ErrUnavailable
// if there are none: the program would end at once.
func hostFamilies() (f Families, err error) {
	if f.IPv4, err = hasDefaultRoute(netlink.FAMILY_V4); err != nil {
		return f, err
	}
	if f.IPv6, err = hasDefaultRoute(netlink.FAMILY_V6); err != nil {
		return f, err
	}
	if f == (Families{}) {
		return f, fmt.Errorf("the host has no default route: %w", errdefs.ErrUnavailable)
	}
	return f, nil
}

// hasDefaultRoute looks at the main table, as the program does.
func hasDefaultRoute(family int) (bool, error) {
	routes, err := netlink.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return false, fmt.Errorf("looking for the host's default route: %w", err)
	}
	for _, r := range routes {
		if r.Family == family && isDefault(r) && r.Type == unix.RTN_UNICAST {
			return true, nil
		}
	}
	return false, nil
}

func isDefault(r netlink.Route) bool {
	if r.Dst == nil {
		return true
	}
	ones, _ := r.Dst.Mask.Size()
	return ones == 0
}

// arguments give the namespace addresses and gateways that are nobody's.
func (f Families) arguments() []string {
	var args []string
	switch {
	case !f.IPv6:
		args = append(args, "--ipv4-only")
	case !f.IPv4:
		args = append(args, "--ipv6-only")
	}
	if f.IPv4 {
		args = append(args, "--address", "10.0.2.100", "--netmask", "24", "--gateway", "10.0.2.2")
	}
	if f.IPv6 {
		args = append(args, "--address", "fd68:7970:6572::100", "--gateway", "fe80::2")
	}
	return args
}
