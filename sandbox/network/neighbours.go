package network

import (
	"cmp"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/hyperhq/hyper/virtcontainers"
)

// neighboursOn are the permanent neighbours on the given links.
func (t tables) neighboursOn(links []netlink.Link) []virtcontainers.Neighbour {
	names := make(map[int]string)
	for _, link := range links {
		names[link.Attrs().Index] = link.Attrs().Name
	}
	var neighbours []virtcontainers.Neighbour
	for _, n := range t.neighbours {
		name, known := names[n.LinkIndex]
		address := addressOf(n.IP)
		if !known || n.State&unix.NUD_PERMANENT == 0 || n.Flags&unix.NTF_PROXY != 0 {
			continue
		}
		if !address.IsValid() || address.IsMulticast() || len(n.HardwareAddr) != 6 {
			continue
		}
		neighbours = append(neighbours, virtcontainers.Neighbour{Interface: name, Address: address, MAC: n.HardwareAddr})
	}
	slices.SortFunc(neighbours, func(a, b virtcontainers.Neighbour) int {
		return cmp.Or(cmp.Compare(a.Interface, b.Interface), a.Address.Compare(b.Address))
	})
	return neighbours
}
