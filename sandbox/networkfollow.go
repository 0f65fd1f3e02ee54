package sandbox

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/hyperhq/hyper/virtcontainers"
)

const (
	// firstPause is what a change that has failed is tried again after; each later pause
	// is twice as long, up to longestPause.
	firstPause   = time.Second
	longestPause = time.Minute
)

// follow brings every later change to the guest, until ctx ends.
func (n *guestNetwork) follow(ctx context.Context) {
	changed := make(chan struct{}, 1)
	var keeping sync.WaitGroup
	keeping.Go(func() { n.keep(ctx, changed) })
	err := n.ns.Follow(ctx, func(virtcontainers.Network) {
		select {
		case changed <- struct{}{}:
		default: // the one that is there is as good
		}
		select {
		case n.giveWay <- struct{}{}:
		default:
		}
	})
	if err != nil && ctx.Err() == nil {
		n.log.WithError(err).Error("the sandbox's network is followed no more")
	}
	keeping.Wait()
}

// keep makes the guest's network what the namespace has whenever that has changed, and
// again while it fails, until ctx ends.
func (n *guestNetwork) keep(ctx context.Context, changed <-chan struct{}) {
	var again <-chan time.Time
	pause := firstPause
	for {
		select {
		case <-changed:
			pause = firstPause
		case <-again:
		case <-ctx.Done():
			return
		}
		again = nil
		err := n.settle(ctx)
		if err == nil || ctx.Err() != nil {
			continue
		}
		if !errors.Is(err, errGaveWay) {
			n.log.WithError(err).Warnf("the sandbox's network has changed, and the guest's could not follow: it is tried again in %v", pause)
		}
		again = time.After(pause)
		pause = min(2*pause, longestPause)
	}
}

// settle gives the guest what the namespace has, and takes from it what that has no more.
func (n *guestNetwork) settle(ctx context.Context) error {
	given, cancel := context.WithTimeout(ctx, networkTimeout)
	defer cancel()
	err, tidied := n.sync(given), n.tidy(ctx)
	if err != nil && errors.Is(tidied, errGaveWay) {
		return err
	}
	return errors.Join(err, tidied)
}
