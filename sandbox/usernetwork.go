package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"

	"github.com/hyperhq/hyper/sandbox/factory"
	"github.com/hyperhq/hyper/sandbox/record"
	"github.com/hyperhq/hyper/sandbox/usernet"
	"github.com/hyperhq/hyper/virtcontainers"
)

const (
	// userNetworkTimeout bounds the wait for the interface that user mode gives.
	userNetworkTimeout = 10 * time.Second
	// userNetworkPause is how long a pod is left without its network, once that has
	// failed, and userNetworkMaxPause when it has failed again and again.
	userNetworkPause    = time.Second
	userNetworkMaxPause = time.Minute
)

// userNetwork gives a pod that was to have the host's network a way out of its
// own. Without one the pod runs on with its loopback alone: agents of a node that
// need no network must not break the node.
//
//	start ──▶ there ──the program dies──▶ not there ──pause──▶ there …
//
// The interface that was made is the follower's, as any of the namespace.
type userNetwork struct {
	guest  *guest
	log    *log.Entry
	daemon *usernet.Daemon // nil while there is none
}

// start gives the pod its network, before anything in it runs. What it cannot give
// it says in the log.
func (u *userNetwork) start(ctx context.Context) {
	if err := u.try(ctx); err != nil {
		u.log.WithError(err).Warn("the host's network cannot be shared with a virtual machine, and the pod has no network but its loopback")
		return
	}
	u.log.Warnf("the host's network cannot be shared with a virtual machine: the pod gets outbound connections by %v in user mode, and none come in", u.daemon.Families())
}

// keep gives the pod its network again whenever it is lost, until ctx ends, and then
// takes it away. Where there is no such program it does nothing.
func (u *userNetwork) keep(ctx context.Context) {
	defer u.stop()
	pause := userNetworkPause
	for {
		if lived, ended := u.await(ctx); !ended {
			return
		} else if lived > userNetworkMaxPause {
			pause = userNetworkPause
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
		pause = min(2*pause, userNetworkMaxPause)
		switch err := u.try(ctx); {
		case ctx.Err() != nil || errdefs.IsNotFound(err):
			return
		case err != nil:
			u.log.WithError(err).Warn("the pod still has no network but its loopback")
		default:
			u.log.Info("the pod has outbound connections in user mode again")
		}
	}
}

// await waits until there is no network, and tells how long there was one; ended is
// false if ctx ended before.
func (u *userNetwork) await(ctx context.Context) (lived time.Duration, ended bool) {
	if u.daemon == nil {
		return 0, true
	}
	begin := time.Now()
	select {
	case <-u.daemon.Done():
	case <-ctx.Done():
		return 0, false
	}
	u.log.WithError(u.daemon.Err()).Error("the pod has lost its outbound connections in user mode; it will get new ones")
	u.stop()
	return time.Since(begin), true
}

func (u *userNetwork) try(ctx context.Context) error {
	sandbox := u.guest.sandbox
	daemon, err := usernet.Start(usernet.Config{
		Path:  sandbox.opts.Config.Pasta.Path,
		NetNS: fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), u.guest.network.file.Fd()),
		Dir:   sandbox.opts.Dir,
	})
	if err != nil {
		return fmt.Errorf("giving the pod outbound connections in user mode: %w", err)
	}
	u.daemon = daemon
	processes := append(u.guest.machine.Processes(), factory.Process{PID: daemon.PID(), Name: "pasta"})
	err = recordProcesses(filepath.Join(sandbox.opts.Dir, record.PidsFile), processes)
	if err == nil {
		err = u.awaitRoute(ctx)
	}
	if err != nil {
		u.stop()
	}
	return err
}

// awaitRoute waits until the namespace has its ways out: pasta adds the interface, and
// for each family an address and the default route, one after the other.
func (u *userNetwork) awaitRoute(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, userNetworkTimeout)
	defer cancel()
	go func() { // ends with ctx, so with awaitRoute
		select {
		case <-u.daemon.Done():
			cancel()
		case <-ctx.Done():
		}
	}()
	var there usernet.Families
	err := u.guest.network.ns.Follow(ctx, func(now virtcontainers.Network) {
		if there = defaultRoutes(now); there == u.daemon.Families() {
			cancel()
		}
	})
	switch {
	case there == u.daemon.Families():
		return nil
	case there != usernet.Families{} && errors.Is(err, context.DeadlineExceeded):
		u.log.Warnf("the pod gets outbound connections by %v only: does the host let namespaces have both?", there)
		return nil
	}
	return fmt.Errorf("waiting for the interface of user mode: %w", errors.Join(err, u.daemon.Err()))
}

// defaultRoutes are the families by which a network has a default route.
func defaultRoutes(n virtcontainers.Network) (f usernet.Families) {
	for _, r := range n.Routes {
		if r.Destination.Bits() == 0 {
			f.IPv4 = f.IPv4 || r.Destination.Addr().Is4()
			f.IPv6 = f.IPv6 || r.Destination.Addr().Is6()
		}
	}
	return f
}

// stop takes the network away again, if there is one.
func (u *userNetwork) stop() {
	if u.daemon == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), killTimeout)
	defer cancel()
	if err := u.daemon.Close(ctx); err != nil {
		u.log.WithError(err).Warn("ending the user mode network")
	}
	u.daemon = nil
}
