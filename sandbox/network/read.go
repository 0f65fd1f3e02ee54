package network

import (
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"

	"github.com/hyperhq/hyper/virtcontainers"
)

// readAttempts bounds how often a table is read that changes while it is read.
const readAttempts = 16

// Read says what the namespace has that its guest is to have:
//
//   - Every link but the loopback, bridges, links that belong to another (of a
//     bridge or a bond), our own taps, and links that are down and have no address.
//     One that carries no Ethernet frames has no MAC; Join refuses it.
//   - Their addresses, but the link-local and autoconfigured ones that the
//     namespace's kernel made: the guest's makes its own.
//   - Unicast routes of the main table, but those that the guest's kernel makes with
//     an address, and those from router advertisements. Of a multipath route the
//     first hop. They can be added in the order they come in.
//   - Permanent neighbours.
//
// An address whose route the namespace no longer has (the ptp plugin removes it)
// comes as a host's, /32 or /128, so that the guest's kernel makes no route either.
//
// The same configuration gives the same answer. It is ErrUnavailable if the
// namespace does not stop changing.
func (n *Namespace) Read() (virtcontainers.Network, error) {
	tables, err := n.read()
	if err != nil {
		return virtcontainers.Network{}, err
	}
	return tables.network(), nil
}

// tables are the kernel's answers, as they came.
type tables struct {
	links      []netlink.Link
	addresses  []netlink.Addr
	routes     []netlink.Route
	neighbours []netlink.Neigh
}

func (n *Namespace) read() (t tables, err error) {
	err = n.use(func(h *netlink.Handle) error {
		t, err = readTables(h)
		return err
	})
	if err != nil {
		return tables{}, fmt.Errorf("reading the network namespace %s: %w", n.path, err)
	}
	return t, nil
}

func readTables(h *netlink.Handle) (t tables, err error) {
	if t.links, err = list("links", h.LinkList); err != nil {
		return t, err
	}
	t.addresses, err = list("addresses", func() ([]netlink.Addr, error) {
		return h.AddrList(nil, netlink.FAMILY_ALL)
	})
	if err != nil {
		return t, err
	}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := list("routes", func() ([]netlink.Route, error) { return h.RouteList(nil, family) })
		if err != nil {
			return t, err
		}
		neighbours, err := list("neighbours", func() ([]netlink.Neigh, error) { return h.NeighList(0, family) })
		if err != nil {
			return t, err
		}
		t.routes = append(t.routes, routes...)
		t.neighbours = append(t.neighbours, neighbours...)
	}
	return t, nil
}

// list reads one table, again if it changed in between.
func list[T any](what string, read func() ([]T, error)) ([]T, error) {
	for range readAttempts {
		entries, err := read()
		if err == nil {
			return entries, nil
		}
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			return nil, fmt.Errorf("listing its %s: %w", what, err)
		}
	}
	return nil, fmt.Errorf("its %s changed each of the %d times they were read: %w", what, readAttempts, errdefs.ErrUnavailable)
}
