package channel

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/yamux"
)

const (
	// headerTimeout bounds how long a stream may stay without its header.
	headerTimeout = 10 * time.Second
	// writeTimeout is how long the peer may leave the connection unread before
	// it is given up. A guest on a busy machine can be slow; a dead one is
	// noticed by its process, not by this.
	writeTimeout = 2 * time.Minute
	// maxGarbage is how many bytes of an earlier session may come before a
	// hello: what a port and its sockets can hold, with room to spare.
	maxGarbage = 4 << 20
	// backlog is how many streams may be opened and not yet accepted.
	backlog = 256
	// maxStreams is how many the host has at once. One that it has closed stays, with what
	// the guest still sends, until the guest closes it too.
	maxStreams = 8192
)

// Session is one conversation of the host with a guest.
type Session struct {
	mux *yamux.Session
	// patience is how long the peer may leave a stream untaken. taken counts those that
	// it has taken, or that there was room for.
	patience time.Duration
	taken    atomic.Uint64
	reason   *reason
}

// reason is why this side has ended a session: the first that there was.
type reason struct {
	mu  sync.Mutex
	err error
}

func (r *reason) set(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err == nil {
		r.err = err
	}
}

func (r *reason) get() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err
}

// Connect begins a session from the host's side: it greets the guest at the
// other end of conn and waits for its answer until ctx ends. The session owns
// conn, which is closed also when Connect fails.
func Connect(ctx context.Context, conn net.Conn) (*Session, error) {
	if err := greetUntil(ctx, conn, begin); err != nil {
		return nil, err
	}
	return hostSession(conn, config())
}

// hostSession is the host's side of a session that both have begun.
func hostSession(conn net.Conn, c *yamux.Config) (*Session, error) {
	why := &reason{}
	mux, err := yamux.Client(joinFrames(&guard{Conn: conn, reason: why}), c)
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("starting the stream multiplexer: %w", err)
	}
	return &Session{mux: mux, patience: c.StreamOpenTimeout, reason: why}, nil
}

// Probe greets the guest at the other end of conn and waits, until ctx ends, for
// its answer that it is fit for containers. The guest then waits for the next
// hello, with nothing of a session begun: so it can be saved. conn stays the
// caller's, unless Probe fails: then it is closed.
func Probe(ctx context.Context, conn net.Conn) error {
	return greetUntil(ctx, conn, probe)
}

// greetUntil greets the guest and closes conn if that fails or ctx ends before.
func greetUntil(ctx context.Context, conn net.Conn, kind byte) error {
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	err := greet(conn, kind)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		conn.Close()
		return errors.Join(err, context.Cause(ctx))
	}
	return nil
}

func greet(conn net.Conn, kind byte) error {
	ours := hello{kind: kind}
	if _, err := rand.Read(ours.nonce[:]); err != nil {
		return err
	}
	if _, err := conn.Write(ours.encode()); err != nil {
		return fmt.Errorf("greeting the guest: %w", err)
	}
	// What a clone's port still held of its template's session ends with the
	// hello that carries our nonce.
	for rest := maxGarbage; rest > 0; rest -= helloSize {
		theirs, err := readHello(conn, rest)
		if err != nil {
			return err
		}
		if theirs == ours {
			return nil
		}
	}
	return errors.New("the guest answered with hellos that are not for this session")
}

// Accept begins a session from the guest's side: it waits for the host's hello
// on port and answers it. To a probe it answers once fit has returned, and waits
// on; that fit fails is its error. The session owns port.
func Accept(port io.ReadWriteCloser, fit func() error) (*Session, error) {
	if err := awaitBegin(port, fit); err != nil {
		port.Close()
		return nil, err
	}
	mux, err := yamux.Server(joinFrames(port), config())
	if err != nil {
		port.Close()
		return nil, fmt.Errorf("starting the stream multiplexer: %w", err)
	}
	return &Session{mux: mux, patience: writeTimeout, reason: &reason{}}, nil
}

func awaitBegin(port io.ReadWriter, fit func() error) error {
	for {
		h, err := readHello(port, maxGarbage)
		if err == nil && h.kind == probe {
			err = fit()
		}
		if err == nil {
			_, err = port.Write(h.encode())
		}
		if err != nil || h.kind == begin {
			return err
		}
	}
}

// config has no keep-alive: a guest that is not executed for some time must not lose its
// session, and one that died is noticed by its process.
func config() *yamux.Config {
	c := yamux.DefaultConfig()
	c.AcceptBacklog = backlog
	c.EnableKeepAlive = false
	c.ConnectionWriteTimeout = writeTimeout
	// A guest that takes no more streams would have their openers wait without an end.
	c.StreamOpenTimeout = writeTimeout
	// Input that was closed may wait for its reader longer than any time: to
	// reset the stream would lose it.
	c.StreamCloseTimeout = 0
	c.LogOutput = io.Discard // errors reach the streams and the caller
	return c
}

// Open opens a stream and says what it is. It waits until ctx ends for a guest that reads
// nothing, or has taken none of the last backlog streams. One that does so for long is
// given up: the session ends.
func (s *Session) Open(ctx context.Context, h Header) (net.Conn, error) {
	type result struct {
		stream net.Conn
		err    error
	}
	opened := make(chan result)
	go func() { // ends with the session, which the guest cannot draw out
		stream, err := s.open(h)
		select {
		case opened <- result{stream, err}:
		case <-ctx.Done():
			if err == nil {
				stream.Close()
			}
		}
	}()
	select {
	case r := <-opened:
		if r.err != nil {
			return nil, fmt.Errorf("opening a stream to the guest: %w", r.err)
		}
		return r.stream, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("opening a stream to the guest, which takes none: %w", context.Cause(ctx))
	}
}

// open is Open, however long it takes. The multiplexer gives a guest up that does not take
// a stream, but not for those that have been closed since. One that is slow, and takes those
// of others meanwhile, is not given up.
func (s *Session) open(h Header) (net.Conn, error) {
	before := s.taken.Load()
	giveUp := time.AfterFunc(s.patience, func() {
		if s.taken.Load() == before {
			s.reason.set(fmt.Errorf("it has taken no stream for %s", s.patience))
			s.mux.Close()
		}
	})
	defer giveUp.Stop()
	if n := s.mux.NumStreams(); n >= maxStreams {
		return nil, fmt.Errorf("the guest has left %d open", n)
	}
	stream, err := s.mux.OpenStream()
	if err != nil {
		return nil, err
	}
	s.taken.Add(1)
	if _, err := stream.Write(h.encode()); err != nil {
		stream.Close()
		return nil, err
	}
	return stream, nil
}

// Serve hands each stream that the host opens to handle, in a goroutine of its
// own, until the session ends, and returns when they have all returned. handle
// owns its stream.
func (s *Session) Serve(handle func(Header, net.Conn)) error {
	var handlers sync.WaitGroup
	defer handlers.Wait()
	for {
		stream, err := s.mux.AcceptStream()
		if err != nil {
			return fmt.Errorf("the host ended the session: %w", err)
		}
		handlers.Go(func() {
			h, err := acceptHeader(stream)
			if err != nil {
				stream.Close()
				return
			}
			handle(h, stream)
		})
	}
}

func acceptHeader(stream net.Conn) (Header, error) {
	if err := stream.SetReadDeadline(time.Now().Add(headerTimeout)); err != nil {
		return Header{}, err
	}
	h, err := readHeader(stream)
	if err != nil {
		return Header{}, err
	}
	return h, stream.SetReadDeadline(time.Time{})
}

// Done is closed when the session has ended.
func (s *Session) Done() <-chan struct{} { return s.mux.CloseChan() }

// Err is why the session has ended, where it is known: nil if the guest has hung up.
func (s *Session) Err() error { return s.reason.get() }

// Close ends the session and all its streams.
func (s *Session) Close() error { return s.mux.Close() }
