package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime/debug"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/ttrpc"
	"github.com/mdlayher/vsock"

	"github.com/hyperhq/hyper/proto/channel"
	agentv1 "github.com/hyperhq/hyper/proto/hyper/agent/v1"
)

// dialer returns the connection for the next session.
type dialer func(ctx context.Context) (io.ReadWriteCloser, error)

// openChannel prepares the device that the host chose on the command line.
func openChannel(o options) (dialer, error) {
	if o.vsockPort != 0 {
		return func(ctx context.Context) (io.ReadWriteCloser, error) {
			return dialHost(ctx, o.vsockPort)
		}, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), portTimeout)
	defer cancel()
	device, err := findPort(ctx, portClass)
	if err != nil {
		return nil, err
	}
	p, err := openPort(device)
	if err != nil {
		return nil, err
	}
	return func(context.Context) (io.ReadWriteCloser, error) { return p.lease() }, nil
}

// dialHost connects to the host's vsock port. While nobody listens there (the
// transport may not be up yet, or the shim not be back) it tries again: the
// kernel has no event for that.
func dialHost(ctx context.Context, port uint32) (io.ReadWriteCloser, error) {
	retry := time.NewTicker(20 * time.Millisecond)
	defer retry.Stop()
	for {
		conn, err := vsock.Dial(vsock.Host, port, nil)
		if err == nil {
			return conn, nil
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("dialing the host's vsock port %d: %w", port, err)
		case <-retry.C:
		}
	}
}

// serve serves one session after the other until ctx ends. It returns an error
// only if there is no channel any more.
func (a *Agent) serve(ctx context.Context, dial dialer) error {
	for {
		conn, err := dial(ctx)
		if err != nil {
			return err
		}
		err = a.serveSession(ctx, conn)
		if ctx.Err() != nil {
			return nil
		}
		a.log.debugf("session: %v; listening again", err)
	}
}

// serveSession serves the host on conn until it ends the session. Containers
// outlive it, though not their streams.
func (a *Agent) serveSession(ctx context.Context, conn io.ReadWriteCloser) error {
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	session, err := channel.Accept(conn, func() error { return a.fit(ctx) })
	if err != nil {
		return err
	}
	defer session.Close()
	a.log.debugf("the host is here")
	ctx, cancel := context.WithCancel(ctx)
	parked := newStreams()
	defer parked.close()
	defer cancel()
	stopSession := context.AfterFunc(ctx, func() { session.Close() })
	defer stopSession()
	service := &service{agent: a, streams: parked}
	return session.Serve(func(h channel.Header, stream net.Conn) {
		switch h.Kind {
		case channel.Control:
			if err := serveControl(ctx, service, stream); err != nil {
				a.log.infof("control stream: %v", err)
			}
		case channel.Stdio:
			parked.park(h.ID, stream)
		case channel.Forward:
			a.forward(ctx, h.ID, stream, session.Done())
		case channel.Socket:
			a.relays.join(h.ID, stream, session.Done())
		default:
			stream.Close()
		}
	})
}

// serveControl serves the API on one stream until it ends.
func serveControl(ctx context.Context, svc *service, stream net.Conn) error {
	server, err := ttrpc.NewServer(ttrpc.WithUnaryServerInterceptor(svc.intercept))
	if err != nil {
		stream.Close()
		return fmt.Errorf("making the API server: %w", err)
	}
	agentv1.RegisterAgentService(server, svc)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	l := newOneConn(stream)
	stop := context.AfterFunc(ctx, func() { l.Close(); stream.Close() })
	defer stop()
	err = server.Serve(ctx, l)
	if errors.Is(err, net.ErrClosed) || errors.Is(err, ttrpc.ErrServerClosed) {
		err = nil
	}
	return errors.Join(err, server.Close())
}

// intercept keeps a request's panic the request's, and gives errors their code.
func (s *service) intercept(ctx context.Context, unmarshal ttrpc.Unmarshaler, info *ttrpc.UnaryServerInfo, method ttrpc.Method) (resp any, err error) {
	begun := time.Now()
	defer func() {
		if r := recover(); r != nil {
			s.agent.log.infof("panic in %s: %v\n%s", info.FullMethod, r, debug.Stack())
			resp, err = nil, fmt.Errorf("the agent panicked in %s: %v: %w", info.FullMethod, r, errdefs.ErrInternal)
		}
		s.agent.log.debugf("%s: %v, %v", info.FullMethod, time.Since(begun).Round(time.Microsecond), err)
		err = toStatus(err)
	}()
	return method(ctx, unmarshal)
}

// oneConn is a listener with one connection to accept. It ends when that does.
type oneConn struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
	addr  net.Addr
}

func newOneConn(conn net.Conn) *oneConn {
	l := &oneConn{conns: make(chan net.Conn, 1), done: make(chan struct{}), addr: conn.LocalAddr()}
	l.conns <- &endingConn{Conn: conn, end: l.end}
	return l
}

func (l *oneConn) end() { l.once.Do(func() { close(l.done) }) }

func (l *oneConn) Accept() (net.Conn, error) {
	select {
	case conn := <-l.conns:
		return conn, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *oneConn) Close() error   { l.end(); return nil }
func (l *oneConn) Addr() net.Addr { return l.addr }

// endingConn tells of its closing.
type endingConn struct {
	net.Conn
	end func()
}

func (c *endingConn) Close() error {
	err := c.Conn.Close()
	c.end()
	return err
}
