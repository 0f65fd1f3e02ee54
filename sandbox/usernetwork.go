package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/hyperhq/hyper/sandbox/factory"
	"github.com/hyperhq/hyper/sandbox/usernet"
	"github.com/hyperhq/hyper/virtcontainers"
)

// userNetworkTimeout bounds the wait for the interface that user mode gives.
const userNetworkTimeout = 10 * time.Second

// startUserNetwork gives a pod that was to have the host's network a way out of
// its own. Without one it runs on with its loopback alone: agents of a node that
// need no network must not break the node.
func (g *guest) startUserNetwork(ctx context.Context) {
	log := g.sandbox.log
	err := g.tryUserNetwork(ctx)
	if err != nil {
		log.WithError(err).Warn("the host's network cannot be shared with a virtual machine, and the pod has no network but its loopback")
		return
	}
	log.Warn("the host's network cannot be shared with a virtual machine: the pod gets outbound IPv4 connections in user mode, and none come in")
}

func (g *guest) tryUserNetwork(ctx context.Context) error {
	daemon, err := usernet.Start(usernet.Config{
		Path:  g.sandbox.opts.Config.Pasta.Path,
		NetNS: fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), g.network.file.Fd()),
		Dir:   g.sandbox.opts.Dir,
	})
	if err != nil {
		return fmt.Errorf("giving the pod outbound connections in user mode: %w", err)
	}
	g.userNetwork = daemon
	processes := append(g.machine.Processes(), factory.Process{PID: daemon.PID(), Name: "pasta"})
	if err := recordProcesses(filepath.Join(g.sandbox.opts.Dir, processesFile), processes); err != nil {
		g.stopUserNetwork()
		return err
	}
	if err := g.awaitUserNetwork(ctx); err != nil {
		g.stopUserNetwork()
		return err
	}
	return nil
}

// awaitUserNetwork waits until the namespace has a way out: pasta adds the interface,
// its address and the default route one after the other.
func (g *guest) awaitUserNetwork(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, userNetworkTimeout)
	defer cancel()
	go func() { // ends with ctx, so with awaitUserNetwork
		select {
		case <-g.userNetwork.Done():
			cancel()
		case <-ctx.Done():
		}
	}()
	there := false
	err := g.network.ns.Follow(ctx, func(now virtcontainers.Network) {
		if slices.ContainsFunc(now.Routes, isDefault) {
			there = true
			cancel()
		}
	})
	if there {
		return nil
	}
	return fmt.Errorf("waiting for the interface of user mode: %w", errors.Join(err, g.userNetwork.Err()))
}

func isDefault(r virtcontainers.Route) bool { return r.Destination.Bits() == 0 }

// stopUserNetwork takes it away again, if there is one.
func (g *guest) stopUserNetwork() {
	if g.userNetwork == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), killTimeout)
	defer cancel()
	if err := g.userNetwork.Close(ctx); err != nil {
		g.sandbox.log.WithError(err).Warn("ending the user mode network")
	}
	g.userNetwork = nil
}
