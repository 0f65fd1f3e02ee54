package virtcontainers

import (
	"net"
	"net/netip"
)

// Network is what the sandbox's network namespace on the host has, and its guest
// is to have: the same names, addresses and routes.
type Network struct {
	Interfaces []Interface
	Routes     []Route
	Neighbours []Neighbour
}

// Interface is one interface beside the loopback.
type Interface struct {
	// Index is the host's: an interface of another index is another interface, though
	// everything else be the same.
	Index     int
	Name      string
	MAC       net.HardwareAddr
	MTU       int // bytes
	Addresses []netip.Prefix
}

// Route is a route of the main table. Destination is never the zero prefix: a
// default route is 0.0.0.0/0 or ::/0. Gateway and Source may be the zero Addr.
type Route struct {
	Destination     netip.Prefix
	Gateway, Source netip.Addr
	Interface       string
	Scope           uint8 // as in rtnetlink(7)
	Metric          int
	OnLink          bool // the gateway is reached without a route to it
}

// Neighbour is a permanent entry of the neighbour table.
type Neighbour struct {
	Interface string
	Address   netip.Addr
	MAC       net.HardwareAddr
}
