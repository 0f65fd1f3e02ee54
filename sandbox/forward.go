package sandbox

import (
	"context"
	"errors"
	"net"
	"os"
	"sync"
	"time"

	"github.com/hyperhq/hyper/proto/channel"
	"github.com/hyperhq/hyper/sandbox/loopback"
)

const (
	// maxForwards is how many connections to the namespace's loopback are
	// forwarded at once: as many as the agent takes.
	maxForwards = 256
	// forwardTimeout bounds the guest's answer to one.
	forwardTimeout = 15 * time.Second
)

// forwardLoopback brings the connections that are made to the loopback of the
// sandbox's network namespace to that of the guest, until ctx ends.
func (g *guest) forwardLoopback(ctx context.Context, namespace *os.File) {
	l, err := loopback.Listen(namespace)
	if err != nil {
		g.sandbox.log.WithError(err).Warn("connections to the sandbox's loopback do not reach the guest")
		return
	}
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	defer l.Close()
	var forwards sync.WaitGroup
	defer forwards.Wait()
	slots := make(chan struct{}, maxForwards)
	for {
		conn, port, err := l.Accept()
		if err != nil {
			return // by the end of ctx
		}
		select {
		case slots <- struct{}{}:
		default:
			reset(conn)
			continue
		}
		forwards.Go(func() {
			defer func() { <-slots }()
			if err := g.forward(ctx, conn, port); err != nil {
				g.sandbox.log.WithError(err).Debug("a connection to the sandbox's loopback")
			}
		})
	}
}

// forward joins a connection to a port of the guest's loopback. One that the
// guest does not take is reset, as by a port on which nobody listens.
func (g *guest) forward(ctx context.Context, conn *net.TCPConn, port uint16) error {
	defer conn.Close()
	answer, cancel := context.WithTimeout(ctx, forwardTimeout)
	defer cancel()
	remote, err := g.session.Forward(answer, port)
	if err != nil {
		reset(conn)
		return err
	}
	defer remote.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close(); remote.Close() })
	defer stop()
	sent := make(chan error, 1)
	go func() { sent <- channel.CopyHalf(remote, conn) }()
	err = channel.CopyHalf(conn, remote)
	if err != nil {
		// What the guest broke off is broken off here too.
		reset(conn)
		remote.Close()
	}
	return errors.Join(err, <-sent)
}

// reset ends a connection as broken.
func reset(conn *net.TCPConn) {
	_ = conn.SetLinger(0)
	conn.Close()
}
