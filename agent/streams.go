package agent

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/containerd/errdefs"
)

const (
	// maxParked is how many streams may be open that no process has claimed.
	maxParked = 256
	// parkTime is how long a stream waits for its process, and a process for
	// its streams. On a host with too much to do a guest may stand still for many
	// seconds in between.
	parkTime = time.Minute
)

// streams holds the byte streams that the host has opened until the processes
// they belong to are created, which may be before or after.
type streams struct {
	mu      sync.Mutex
	closed  bool
	parked  map[uint64]parked
	waiting map[uint64]chan net.Conn
}

type parked struct {
	conn   net.Conn
	expire *time.Timer
}

func newStreams() *streams {
	return &streams{parked: map[uint64]parked{}, waiting: map[uint64]chan net.Conn{}}
}

// park gives conn to the process that waits for id, or keeps it until one does.
// It closes it if there are too many, if id is taken, or if no one comes.
func (s *streams) park(id uint64, conn net.Conn) {
	s.mu.Lock()
	if w, ok := s.waiting[id]; ok {
		delete(s.waiting, id)
		s.mu.Unlock()
		w <- conn // buffered for this one
		return
	}
	_, taken := s.parked[id]
	if taken || s.closed || id == 0 || len(s.parked) >= maxParked {
		s.mu.Unlock()
		conn.Close()
		return
	}
	s.parked[id] = parked{conn, time.AfterFunc(parkTime, func() { s.expire(id, conn) })}
	s.mu.Unlock()
}

func (s *streams) expire(id uint64, conn net.Conn) {
	s.mu.Lock()
	mine := s.parked[id].conn == conn
	if mine {
		delete(s.parked, id)
	}
	s.mu.Unlock()
	if mine {
		conn.Close()
	}
}

// claim returns the stream id, which is then the caller's. It waits for it at
// most parkTime.
func (s *streams) claim(ctx context.Context, id uint64) (net.Conn, error) {
	s.mu.Lock()
	if p, ok := s.parked[id]; ok {
		delete(s.parked, id)
		s.mu.Unlock()
		p.expire.Stop()
		return p.conn, nil
	}
	if _, taken := s.waiting[id]; taken || s.closed || len(s.waiting) >= maxParked {
		s.mu.Unlock()
		return nil, fmt.Errorf("stream %d is another process's, or the session has ended: %w", id, errdefs.ErrInvalidArgument)
	}
	w := make(chan net.Conn, 1)
	s.waiting[id] = w
	s.mu.Unlock()

	ctx, cancel := context.WithTimeout(ctx, parkTime)
	defer cancel()
	select {
	case conn := <-w:
		return granted(id, conn)
	case <-ctx.Done():
	}
	s.mu.Lock()
	_, still := s.waiting[id]
	delete(s.waiting, id)
	s.mu.Unlock()
	if !still { // it came at the last moment
		return granted(id, <-w)
	}
	return nil, fmt.Errorf("the host has not opened stream %d: %w", id, errdefs.ErrFailedPrecondition)
}

// granted tells a stream from the end of the session, which is a nil stream.
func granted(id uint64, conn net.Conn) (net.Conn, error) {
	if conn == nil {
		return nil, fmt.Errorf("the session ended before stream %d was opened: %w", id, errdefs.ErrUnavailable)
	}
	return conn, nil
}

// close closes all streams that are parked and fails those who wait. Streams
// that were claimed stay their owners'.
func (s *streams) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for id, p := range s.parked {
		p.expire.Stop()
		// A stream's close does not wait for the peer, nor does it call back.
		p.conn.Close()
		delete(s.parked, id)
	}
	for id, w := range s.waiting {
		w <- nil
		delete(s.waiting, id)
	}
}
