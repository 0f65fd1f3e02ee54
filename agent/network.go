package agent

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	agentv1 "github.com/hyperhq/hyper/proto/hyper/agent/v1"
)

const (
	// linkTime is how long an interface that is not there yet is waited for.
	linkTime = 30 * time.Second
	// netlinkTime bounds the kernel's answer to one question about its network.
	netlinkTime = 10 * time.Second
	// maxDumps is how often a list that changed while it was read is read again.
	maxDumps = 10
)

// network is the guest's own network, which the containers of a pod share.
type network struct {
	log *logger
	// turn is held by the one call that changes the network.
	turn chan struct{}

	mu sync.Mutex
	// settings of single interfaces, to be made when they have their names.
	settings []sysctl
}

func newNetwork(log *logger) *network {
	return &network{log: log, turn: make(chan struct{}, 1)}
}

// set makes the network what the request says. What is so already is not
// touched. When it fails the network is somewhere in between; the next call
// starts from there.
func (n *network) set(ctx context.Context, req *agentv1.SetNetworkRequest) error {
	want, err := parseNetwork(req)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, linkTime)
	defer cancel()
	select {
	case n.turn <- struct{}{}:
		defer func() { <-n.turn }()
	case <-ctx.Done():
		return fmt.Errorf("the network is being changed by another call: %w", ctx.Err())
	}
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("opening a netlink socket: %w", err)
	}
	defer h.Close()
	if err := h.SetSocketTimeout(netlinkTime); err != nil {
		return fmt.Errorf("preparing a netlink socket: %w", err)
	}
	k := &kernelNetwork{h: h}
	return k.apply(ctx, want, n.linkSettings())
}

// remember keeps settings of single interfaces for when these are there,
// instead of those of before.
func (n *network) remember(settings []sysctl) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.settings = settings
}

func (n *network) linkSettings() []sysctl {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.settings
}

// kernelNetwork changes the network of the kernel.
type kernelNetwork struct {
	h *netlink.Handle
	// links are those that were asked for, by the name they have been given.
	links map[string]netlink.Link
}

// apply goes from what is in the way to what rests on other things: interfaces
// that are not wanted, names, addresses, routes.
func (k *kernelNetwork) apply(ctx context.Context, want *wantedNetwork, settings []sysctl) error {
	found, err := k.awaitLinks(ctx, want.links)
	if err != nil {
		return err
	}
	if err := k.retireOthers(found, want.links); err != nil {
		return err
	}
	if err := k.renameLinks(want.links, found); err != nil {
		return err
	}
	k.links = make(map[string]netlink.Link, len(want.links))
	for _, l := range want.links {
		k.links[l.name] = found[l.mac]
	}
	// What fails leaves the rest to be done: one interface does not hold up another.
	return errors.Join(
		k.applySettings(settings),
		each(want.links, k.applyMTU),
		// Addresses that go do so first: one may have moved from an interface to another.
		each(want.links, k.removeAddresses),
		each(want.links, k.addAddresses),
		each(want.links, k.setUp),
		k.applyRoutes(want.routes),
		k.applyNeighbours(want.neighbours),
	)
}

// each does something with every interface, also after one fails.
func each(links []wantedLink, do func(wantedLink) error) error {
	var errs []error
	for _, l := range links {
		errs = append(errs, do(l))
	}
	return errors.Join(errs...)
}

// applySettings makes the settings of those interfaces that are there.
func (k *kernelNetwork) applySettings(settings []sysctl) error {
	var errs []error
	for _, s := range settings {
		if k.links[s.link] == nil {
			continue // it may yet come
		}
		errs = append(errs, s.write())
	}
	return errors.Join(errs...)
}

// dump reads one of the kernel's lists, whole.
func dump[T any](what string, list func() ([]T, error)) ([]T, error) {
	for range maxDumps {
		all, err := list()
		if err == nil {
			return all, nil
		}
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			return nil, fmt.Errorf("listing the %s: %w", what, err)
		}
	}
	return nil, fmt.Errorf("listing the %s: they changed each of %d times: %w", what, maxDumps, netlink.ErrDumpInterrupted)
}
