package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"

	"github.com/hyperhq/hyper/proto/channel"
	agentv1 "github.com/hyperhq/hyper/proto/hyper/agent/v1"
)

// relays carry the connections that the guest tells of to sockets of the host.
type relays struct {
	guest  *guest
	places chan struct{}
	all    sync.WaitGroup
}

func newRelays(g *guest) *relays {
	return &relays{guest: g, places: make(chan struct{}, maxRelays)}
}

// begin takes a connection that the guest told of, until ctx ends. What it may
// not have, or too many, is left alone: the guest gives them up.
func (r *relays) begin(ctx context.Context, c *agentv1.Connection) {
	socket := r.guest.sandbox.sockets.get(c.GetSocketId())
	if socket == nil {
		return
	}
	select {
	case r.places <- struct{}{}:
	default:
		return
	}
	r.all.Go(func() {
		defer func() { <-r.places }()
		if err := r.guest.relay(ctx, socket, c.GetConnectionId()); err != nil {
			r.guest.sandbox.log.WithError(err).Debugf("a connection to the socket %s", socket.source)
		}
	})
}

// wait waits for all to have ended.
func (r *relays) wait() { r.all.Wait() }

// relay joins a connection of the guest to a socket of the host, until ctx or the
// container ends. If the socket takes none, the guest's ends.
func (g *guest) relay(ctx context.Context, socket *hostSocket, connection uint64) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(socket.life, cancel)()
	local, refused := socket.dial(ctx)
	remote, err := g.session.OpenSocket(ctx, connection)
	if refused != nil || err != nil {
		if local != nil {
			local.Close()
		}
		if remote != nil {
			remote.Close()
		}
		return errors.Join(refused, err)
	}
	return joinConns(ctx, local, remote)
}

// joinConns copies both ways, each direction to its own end, until both have
// ended, one breaks, or ctx ends, and closes both.
func joinConns(ctx context.Context, local *net.UnixConn, remote *channel.Conn) error {
	defer local.Close()
	defer remote.Close()
	ctx, broken := context.WithCancelCause(ctx)
	defer broken(nil)
	defer context.AfterFunc(ctx, func() { local.Close(); remote.Close() })()
	var both sync.WaitGroup
	copying := func(to channel.HalfCloser, from io.Reader) func() {
		return func() {
			if err := channel.CopyHalf(to, from); err != nil {
				broken(fmt.Errorf("a direction broke: %w", err))
			}
		}
	}
	both.Go(copying(remote, local))
	both.Go(copying(local, remote))
	both.Wait()
	return context.Cause(ctx)
}
