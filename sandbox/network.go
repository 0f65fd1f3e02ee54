package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"reflect"
	"slices"
	"time"

	"github.com/containerd/log"

	agentv1 "github.com/hyperhq/hyper/proto/hyper/agent/v1"
	"github.com/hyperhq/hyper/sandbox/network"
	"github.com/hyperhq/hyper/virtcontainers"
)

// maxQueues bounds the queues of a card: more than this help no guest of ours.
const maxQueues = 8

// guestNetwork keeps the guest's network what the sandbox's namespace on the host
// has: for each interface there a card here, with the same name, addresses and
// routes. Whoever needs it to be so calls sync; what changes later is followed.
type guestNetwork struct {
	guest *guest
	log   *log.Entry
	ns    *network.Namespace
	file  *os.File // of the same namespace
	// turn is taken by the one who changes anything, and guards what follows.
	turn    chan struct{}
	cards   map[string]*card // by MAC address
	applied virtcontainers.Network
	next    int
}

// card is an interface of the namespace joined to a card of the guest.
type card struct {
	id    string
	iface string
	index int // of the interface on the host
	mac   string
	mtu   int
	tap   *network.Tap
}

// isOf says whether it is the interface's card.
func (c *card) isOf(i virtcontainers.Interface) bool {
	return c.index == i.Index && c.mac == i.MAC.String()
}

// bars says whether the interface can have a card only when this one is gone: the guest
// tells its cards by their addresses, and an interface has one tap.
func (c *card) bars(i virtcontainers.Interface) bool {
	return c.index == i.Index || c.mac == i.MAC.String()
}

// newGuestNetwork opens the namespace that the guest's machine runs in.
func newGuestNetwork(g *guest) (*guestNetwork, error) {
	file, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", g.machine.PID()))
	if err != nil {
		return nil, fmt.Errorf("opening the sandbox's network namespace: %w", err)
	}
	ns, err := network.Open(fmt.Sprintf("/proc/self/fd/%d", file.Fd()))
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("opening the sandbox's network namespace: %w", err)
	}
	return &guestNetwork{
		guest: g,
		log:   g.sandbox.log,
		ns:    ns,
		file:  file,
		turn:  make(chan struct{}, 1),
		cards: make(map[string]*card),
	}, nil
}

// follow brings every later change to the guest, until ctx ends.
func (n *guestNetwork) follow(ctx context.Context) {
	err := n.ns.Follow(ctx, func(virtcontainers.Network) {
		ctx, cancel := context.WithTimeout(ctx, networkTimeout)
		defer cancel()
		if err := n.sync(ctx); err != nil && ctx.Err() == nil {
			n.log.WithError(err).Warn("the sandbox's network has changed, and the guest's could not follow")
		}
	})
	if err != nil && ctx.Err() == nil {
		n.log.WithError(err).Error("the sandbox's network is followed no more")
	}
}

// networkTimeout bounds one change of the guest's network.
const networkTimeout = 30 * time.Second

// sync makes the guest's network what the namespace has now. It costs little when
// nothing has changed.
func (n *guestNetwork) sync(ctx context.Context) error {
	select {
	case n.turn <- struct{}{}:
		defer func() { <-n.turn }()
	case <-ctx.Done():
		return fmt.Errorf("waiting for an earlier change of the network: %w", ctx.Err())
	}
	now, err := n.read()
	if err != nil {
		return err
	}
	if reflect.DeepEqual(now, n.applied) {
		return nil
	}
	// What fails from here on is to be tried again, though the network be the old one again.
	n.applied = virtcontainers.Network{}
	// What was replaced by something with its address, or has another address.
	if err := n.unplug(ctx, now, func(c *card) bool { return slices.ContainsFunc(now.Interfaces, c.bars) }); err != nil {
		return err
	}
	if err := n.plug(ctx, now); err != nil {
		return err
	}
	agent, err := n.guest.call()
	if err != nil {
		return err
	}
	if err := agent.setNetwork(ctx, networkRequest(now)); err != nil {
		return fmt.Errorf("setting up the guest's network: %w", err)
	}
	if err := n.unplug(ctx, now, func(*card) bool { return true }); err != nil {
		return err
	}
	n.applied = now
	return nil
}

// read reads the network that the guest can be given: its cards carry Ethernet.
func (n *guestNetwork) read() (virtcontainers.Network, error) {
	now, err := n.ns.Read()
	if err != nil {
		return now, fmt.Errorf("reading the sandbox's network: %w", err)
	}
	left := make(map[string]bool)
	now.Interfaces = slices.DeleteFunc(now.Interfaces, func(i virtcontainers.Interface) bool {
		if len(i.MAC) == 0 {
			n.log.Warnf("interface %s carries no Ethernet frames: the guest does not get it", i.Name)
			left[i.Name] = true
			return true
		}
		return false
	})
	now.Routes = slices.DeleteFunc(now.Routes, func(r virtcontainers.Route) bool { return left[r.Interface] })
	now.Neighbours = slices.DeleteFunc(now.Neighbours, func(e virtcontainers.Neighbour) bool { return left[e.Interface] })
	return now, nil
}

// plug gives the guest a card for each interface that has none.
func (n *guestNetwork) plug(ctx context.Context, now virtcontainers.Network) error {
	for _, i := range now.Interfaces {
		c := n.cards[i.MAC.String()]
		var err error
		if c == nil {
			if c, err = n.attach(ctx, i); err == nil {
				n.cards[i.MAC.String()] = c
			}
		} else if c.mtu != i.MTU {
			err = c.tap.SetMTU(i.MTU)
			c.mtu = i.MTU
		}
		if err != nil {
			return fmt.Errorf("giving interface %s to the guest: %w", i.Name, err)
		}
	}
	return nil
}

func (n *guestNetwork) attach(ctx context.Context, i virtcontainers.Interface) (_ *card, err error) {
	queues := int(min(n.guest.size.VCPUs, maxQueues))
	tap, err := n.ns.Join(i.Name, queues)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, tap.Close())
		}
	}()
	vhost, err := network.OpenVHost(queues)
	if err != nil {
		return nil, err
	}
	defer func() {
		for _, f := range vhost {
			f.Close()
		}
	}()
	c := &card{id: fmt.Sprintf("nic%d", n.next), iface: i.Name, index: i.Index, mac: i.MAC.String(), mtu: i.MTU, tap: tap}
	n.next++
	err = n.guest.machine.AttachNIC(ctx, virtcontainers.NIC{ID: c.id, MAC: i.MAC, MTU: i.MTU, Queues: tap.Queues, VHost: vhost})
	if err != nil {
		return nil, err
	}
	// QEMU has its own: with the last of them the tap goes.
	for _, q := range tap.Queues {
		q.Close()
	}
	return c, nil
}

// unplug takes those of the guest's cards whose interfaces are gone that are to go.
func (n *guestNetwork) unplug(ctx context.Context, now virtcontainers.Network, toGo func(*card) bool) error {
	var errs []error
	for mac, c := range n.cards {
		if slices.ContainsFunc(now.Interfaces, c.isOf) || !toGo(c) {
			continue
		}
		if err := n.guest.machine.DetachNIC(ctx, c.id); err != nil {
			errs = append(errs, fmt.Errorf("taking interface %s from the guest: %w", c.iface, err))
			continue
		}
		delete(n.cards, mac)
		errs = append(errs, c.tap.Close())
	}
	return errors.Join(errs...)
}

// close takes out of the namespace what was made there. The machine must have
// ended, and follow have returned.
func (n *guestNetwork) close() error {
	var errs []error
	for _, c := range n.cards {
		errs = append(errs, c.tap.Close())
	}
	return errors.Join(append(errs, n.ns.Close(), n.file.Close())...)
}

// networkRequest is the network as the agent is asked for it.
func networkRequest(now virtcontainers.Network) *agentv1.SetNetworkRequest {
	r := &agentv1.SetNetworkRequest{}
	for _, i := range now.Interfaces {
		addresses := make([]string, 0, len(i.Addresses))
		for _, a := range i.Addresses {
			addresses = append(addresses, a.String())
		}
		r.Interfaces = append(r.Interfaces, &agentv1.Interface{Mac: i.MAC.String(), Name: i.Name, Mtu: uint32(i.MTU), Addresses: addresses})
	}
	for _, t := range now.Routes {
		route := &agentv1.Route{
			Destination: t.Destination.String(), Interface: t.Interface, Scope: uint32(t.Scope), Metric: uint32(t.Metric), OnLink: t.OnLink,
		}
		if t.Gateway.IsValid() {
			route.Gateway = t.Gateway.String()
		}
		if t.Source.IsValid() {
			route.Source = t.Source.String()
		}
		r.Routes = append(r.Routes, route)
	}
	for _, e := range now.Neighbours {
		r.Neighbours = append(r.Neighbours, &agentv1.Neighbour{Address: e.Address.String(), Mac: e.MAC.String(), Interface: e.Interface})
	}
	return r
}
