package agent

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// applyNeighbours makes the permanent neighbours of the interfaces those that
// are wanted. What the kernel has learned is its own.
func (k *kernelNetwork) applyNeighbours(want []wantedNeighbour) error {
	have, err := k.permanentNeighbours()
	if err != nil {
		return err
	}
	for _, h := range have {
		// A wanted one with another MAC address is replaced below.
		if slices.ContainsFunc(want, func(w wantedNeighbour) bool { return w.address == h.address && w.link == h.link }) {
			continue
		}
		if err := k.h.NeighDel(k.netlinkNeighbour(h)); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("removing neighbour %v of interface %s: %w", h.address, h.link, err)
		}
	}
	for _, w := range want {
		if slices.Contains(have, w) {
			continue
		}
		if err := k.h.NeighSet(k.netlinkNeighbour(w)); err != nil {
			return fmt.Errorf("adding neighbour %v of interface %s: %w", w.address, w.link, err)
		}
	}
	return nil
}

func (k *kernelNetwork) permanentNeighbours() ([]wantedNeighbour, error) {
	var found []wantedNeighbour
	for name, l := range k.links {
		list, err := dump("neighbours", func() ([]netlink.Neigh, error) {
			return k.h.NeighList(l.Attrs().Index, netlink.FAMILY_ALL)
		})
		if err != nil {
			return nil, err
		}
		for _, n := range list {
			addr, ok := netip.AddrFromSlice(n.IP)
			if ok && n.State&netlink.NUD_PERMANENT != 0 && len(n.HardwareAddr) == len(macAddress{}) {
				found = append(found, wantedNeighbour{addr.Unmap(), macAddress(n.HardwareAddr), name})
			}
		}
	}
	return found, nil
}

func (k *kernelNetwork) netlinkNeighbour(w wantedNeighbour) *netlink.Neigh {
	family := netlink.FAMILY_V4
	if w.address.Is6() {
		family = netlink.FAMILY_V6
	}
	return &netlink.Neigh{
		LinkIndex: k.links[w.link].Attrs().Index, Family: family, State: netlink.NUD_PERMANENT,
		IP: w.address.AsSlice(), HardwareAddr: w.mac[:],
	}
}
