package agent

import (
	"net"
	"sync"
	"time"

	"github.com/hyperhq/hyper/proto/channel"
	agentv1 "github.com/hyperhq/hyper/proto/hyper/agent/v1"
)

const (
	// maxRelays is how many connections to sockets of the host there are at once.
	maxRelays = 256
	// relayTime is how long a connection waits for the host to take it, and the
	// next one for a place.
	relayTime = 10 * time.Second
)

// relays are the connections to sockets of the host. Each is told of by an event
// and waits until the host opens a stream for it.
type relays struct {
	events *events
	places chan struct{}

	mu      sync.Mutex
	last    uint64
	waiting map[uint64]*relay
}

type relay struct {
	conn   *net.UnixConn
	from   *net.UnixListener
	expire *time.Timer
}

func newRelays(e *events) *relays {
	return &relays{events: e, places: make(chan struct{}, maxRelays), waiting: map[uint64]*relay{}}
}

// accept takes connections for the host's socket id until l is closed. While all
// places are taken they wait in the kernel's queue, the first of them for
// relayTime.
func (r *relays) accept(l *net.UnixListener, id uint64, closed <-chan struct{}) {
	for {
		conn, err := l.AcceptUnix()
		if err != nil {
			return
		}
		if !r.place(closed) {
			conn.Close()
			continue
		}
		r.announce(conn, l, id)
	}
}

// place waits for a place.
func (r *relays) place(closed <-chan struct{}) bool {
	limit := time.NewTimer(relayTime)
	defer limit.Stop()
	select {
	case r.places <- struct{}{}:
		return true
	case <-limit.C:
	case <-closed:
	}
	return false
}

// announce tells the host of a connection, which has a place.
func (r *relays) announce(conn *net.UnixConn, from *net.UnixListener, socket uint64) {
	r.mu.Lock()
	r.last++
	id := r.last
	r.waiting[id] = &relay{conn: conn, from: from, expire: time.AfterFunc(relayTime, func() { r.refuse(id) })}
	r.mu.Unlock()
	r.events.publish(&agentv1.Event{Event: &agentv1.Event_Connection{
		Connection: &agentv1.Connection{SocketId: socket, ConnectionId: id},
	}})
}

// take gives the connection to who joins it, and to nobody after, or nil.
func (r *relays) take(id uint64) *net.UnixConn {
	r.mu.Lock()
	defer r.mu.Unlock()
	w := r.waiting[id]
	if w == nil {
		return nil
	}
	delete(r.waiting, id)
	w.expire.Stop()
	return w.conn
}

// refuse ends a connection that the host has not taken.
func (r *relays) refuse(id uint64) {
	if conn := r.take(id); conn != nil {
		conn.Close()
		<-r.places
	}
}

// drop refuses all connections of a listener.
func (r *relays) drop(from *net.UnixListener) {
	var ids []uint64
	r.mu.Lock()
	for id, w := range r.waiting {
		if w.from == from {
			ids = append(ids, id)
		}
	}
	r.mu.Unlock()
	for _, id := range ids {
		r.refuse(id)
	}
}

// join joins the stream that the host has opened for a connection to it, and
// returns when both directions have ended, one has broken, or the session ended.
func (r *relays) join(id uint64, stream net.Conn, sessionEnd <-chan struct{}) {
	conn := r.take(id)
	if conn == nil {
		stream.Close()
		return
	}
	defer func() { <-r.places }()
	join(channel.NewConn(stream), conn, sessionEnd)
}
