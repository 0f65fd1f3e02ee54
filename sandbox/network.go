package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"

	agentv1 "github.com/hyperhq/hyper/proto/hyper/agent/v1"
	"github.com/hyperhq/hyper/sandbox/network"
	"github.com/hyperhq/hyper/virtcontainers"
)

// maxQueues bounds the queues of a card: more than this help no guest of ours.
const maxQueues = 8

// detachTimeout bounds how long a guest may take to let go of cards: it does so within
// a second, on a very slow host within ten, or not at all. It is half of networkTimeout,
// so that there is time for the rest.
const detachTimeout = networkTimeout / 2

// slots are what takes the cards of a machine.
type slots interface {
	AttachNIC(ctx context.Context, nic virtcontainers.NIC) error
	DetachNIC(ctx context.Context, id string) error
}

// guestNetwork keeps the guest's network what the sandbox's namespace on the host
// has: for each interface there a card here, with the same name, addresses and
// routes. Whoever needs it to be so calls sync; what changes later is followed, and who
// follows it takes from the guest the cards that nobody wants any more.
type guestNetwork struct {
	log    *log.Entry
	ns     *network.Namespace
	file   *os.File // of the same namespace
	slots  slots
	queues int // of each card
	// tell has the guest make of its cards what the request says.
	tell    func(context.Context, *agentv1.SetNetworkRequest) error
	closing chan struct{} // closed when nothing is to be changed any more
	// turn is taken by the one who changes anything, and guards what follows.
	turn chan struct{}
	// giveWay is heard by whoever has the turn for what nobody waits for.
	giveWay chan struct{}
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

// newGuestNetwork is that of the namespace which the guest's machine runs in.
func newGuestNetwork(g *guest) (*guestNetwork, error) {
	n, err := openGuestNetwork(fmt.Sprintf("/proc/%d/ns/net", g.machine.PID()), g.sandbox.log)
	if err != nil {
		return nil, err
	}
	n.slots = g.machine
	n.queues = int(min(g.size.VCPUs, maxQueues))
	n.tell = func(ctx context.Context, r *agentv1.SetNetworkRequest) error {
		agent, err := g.call()
		if err != nil {
			return err
		}
		return agent.setNetwork(ctx, r)
	}
	return n, nil
}

// openGuestNetwork opens the namespace; whose guest it is is for the caller to say.
func openGuestNetwork(path string, log *log.Entry) (*guestNetwork, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("opening the sandbox's network namespace: %w", err)
	}
	ns, err := network.Open(fmt.Sprintf("/proc/self/fd/%d", file.Fd()))
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("opening the sandbox's network namespace: %w", err)
	}
	return &guestNetwork{
		log:   log,
		ns:    ns,
		file:  file,
		turn:  make(chan struct{}, 1),
		cards: make(map[string]*card),

		giveWay: make(chan struct{}),
		closing: make(chan struct{}),
	}, nil
}

// networkTimeout bounds one change of the guest's network.
const networkTimeout = 30 * time.Second

// sync gives the guest what the namespace has now. It costs little when nothing has
// changed. A card that nobody wants any more is not waited for.
func (n *guestNetwork) sync(ctx context.Context) error {
	if err := n.takeTurn(ctx); err != nil {
		return err
	}
	defer n.endTurn()
	now, err := n.read()
	if err != nil {
		return err
	}
	if reflect.DeepEqual(now, n.applied) {
		return nil
	}
	// What fails from here on is to be tried again, though the network be the old one again.
	n.applied = virtcontainers.Network{}
	if err := n.apply(ctx, now); err != nil {
		return err
	}
	n.applied = now
	return nil
}

// takeTurn waits for those who change the network before, and has whoever only tidies up
// give way.
func (n *guestNetwork) takeTurn(ctx context.Context) error {
	for {
		select {
		case n.turn <- struct{}{}:
			return nil
		case n.giveWay <- struct{}{}:
		case <-n.closing:
			return fmt.Errorf("setting up the guest's network: its machine has ended: %w", errdefs.ErrUnavailable)
		case <-ctx.Done():
			return fmt.Errorf("waiting for an earlier change of the network: %w", ctx.Err())
		}
	}
}

func (n *guestNetwork) endTurn() { <-n.turn }

// apply gives the guest what is given, as far as that goes: an interface that the guest
// cannot have, and a card that it does not let go of, keep nothing else from it.
func (n *guestNetwork) apply(ctx context.Context, now virtcontainers.Network) error {
	errs := []error{n.unplug(ctx, now, barsAny(now)), n.plug(ctx, now)}
	had := without(now, func(i virtcontainers.Interface) bool { return n.cardOf(i) == nil })
	if err := n.tell(ctx, networkRequest(had)); err != nil {
		errs = append(errs, fmt.Errorf("setting up the guest's network: %w", err))
	}
	return errors.Join(errs...)
}

// barsAny says of a card whether it bars any interface: it was replaced by something with
// its address, or that has another address.
func barsAny(now virtcontainers.Network) func(*card) bool {
	return func(c *card) bool { return slices.ContainsFunc(now.Interfaces, c.bars) }
}

// errGaveWay says that tidying up is not done, as somebody had need of the turn.
var errGaveWay = errors.New("gave way to a change of the network")

// tidy takes from the guest the cards whose interfaces are gone. It gives way to whoever
// changes the network.
func (n *guestNetwork) tidy(ctx context.Context) error {
	if err := n.takeTurn(ctx); err != nil {
		return err
	}
	defer n.endTurn()
	now, err := n.ns.Read()
	if err != nil {
		return fmt.Errorf("reading the sandbox's network: %w", err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	var listening sync.WaitGroup
	listening.Go(func() {
		select {
		case <-n.giveWay:
			cancel(errGaveWay)
		case <-ctx.Done():
		}
	})
	defer listening.Wait()
	defer cancel(nil)
	bars := barsAny(now)
	err = n.unplug(ctx, now, func(c *card) bool { return !bars(c) })
	if err != nil && errors.Is(context.Cause(ctx), errGaveWay) {
		return errGaveWay
	}
	return err
}

// cardOf is an interface's card, or nil.
func (n *guestNetwork) cardOf(i virtcontainers.Interface) *card {
	if c := n.cards[i.MAC.String()]; c != nil && c.isOf(i) {
		return c
	}
	return nil
}

// read reads the network that the guest can be given: its cards carry Ethernet.
func (n *guestNetwork) read() (virtcontainers.Network, error) {
	now, err := n.ns.Read()
	if err != nil {
		return now, fmt.Errorf("reading the sandbox's network: %w", err)
	}
	return without(now, func(i virtcontainers.Interface) bool {
		if len(i.MAC) == 0 {
			n.log.Warnf("interface %s carries no Ethernet frames: the guest does not get it", i.Name)
			return true
		}
		return false
	}), nil
}

// without is a network without some of its interfaces, and what is over them.
func without(whole virtcontainers.Network, out func(virtcontainers.Interface) bool) virtcontainers.Network {
	var rest virtcontainers.Network
	left := make(map[string]bool)
	for _, i := range whole.Interfaces {
		if out(i) {
			left[i.Name] = true
		} else {
			rest.Interfaces = append(rest.Interfaces, i)
		}
	}
	for _, r := range whole.Routes {
		if !left[r.Interface] {
			rest.Routes = append(rest.Routes, r)
		}
	}
	for _, e := range whole.Neighbours {
		if !left[e.Interface] {
			rest.Neighbours = append(rest.Neighbours, e)
		}
	}
	return rest
}

// plug gives the guest a card for each interface that has none.
func (n *guestNetwork) plug(ctx context.Context, now virtcontainers.Network) error {
	var errs []error
	for _, i := range now.Interfaces {
		if err := n.plugOne(ctx, i); err != nil {
			errs = append(errs, fmt.Errorf("giving interface %s to the guest: %w", i.Name, err))
		}
	}
	return errors.Join(errs...)
}

func (n *guestNetwork) plugOne(ctx context.Context, i virtcontainers.Interface) error {
	if c := n.cardOf(i); c != nil {
		if c.mtu == i.MTU {
			return nil
		}
		if err := c.tap.SetMTU(i.MTU); err != nil {
			return err
		}
		c.mtu = i.MTU
		return nil
	}
	for _, c := range n.cards {
		if c.bars(i) {
			return fmt.Errorf("the guest still has the card of the one before it, %s: %w", c.id, errdefs.ErrUnavailable)
		}
	}
	c, err := n.attach(ctx, i)
	if err != nil {
		return err
	}
	n.cards[c.mac] = c
	return nil
}

func (n *guestNetwork) attach(ctx context.Context, i virtcontainers.Interface) (_ *card, err error) {
	tap, err := n.ns.Join(i.Name, n.queues)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, tap.Close())
		}
	}()
	vhost, err := network.OpenVHost(n.queues)
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
	err = n.slots.AttachNIC(ctx, virtcontainers.NIC{ID: c.id, MAC: i.MAC, MTU: i.MTU, Queues: tap.Queues, VHost: vhost})
	if err != nil {
		return nil, err
	}
	// QEMU has its own: with the last of them the tap goes.
	for _, q := range tap.Queues {
		q.Close()
	}
	return c, nil
}

// unplug takes those of the guest's cards whose interfaces are gone that are to go, all at
// the same time: for one that it keeps it is waited long.
func (n *guestNetwork) unplug(ctx context.Context, now virtcontainers.Network, toGo func(*card) bool) error {
	ctx, cancel := context.WithTimeout(ctx, detachTimeout)
	defer cancel()
	type leaving struct {
		*card
		err error
	}
	var cards []*leaving
	var detaching sync.WaitGroup
	for _, c := range n.cards {
		if slices.ContainsFunc(now.Interfaces, c.isOf) || !toGo(c) {
			continue
		}
		l := &leaving{card: c}
		cards = append(cards, l)
		detaching.Go(func() { l.err = n.slots.DetachNIC(ctx, l.id) })
	}
	detaching.Wait()
	var errs []error
	for _, l := range cards {
		if l.err != nil {
			errs = append(errs, fmt.Errorf("taking interface %s from the guest: %w", l.iface, l.err))
			continue
		}
		delete(n.cards, l.mac)
		errs = append(errs, l.tap.Close())
	}
	return errors.Join(errs...)
}

// close takes out of the namespace what was made there, when the change that is under way
// has come to its end: as the machine must have ended, that is soon. It is called once.
func (n *guestNetwork) close() error {
	close(n.closing)
	n.turn <- struct{}{} // and it stays taken
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
