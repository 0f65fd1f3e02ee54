package shim

import (
	"context"
	"net"
	"sync"

	"github.com/containerd/ttrpc"
)

// peers are the connections that a server has. A server whose work is done waits
// for them to hang up: ttrpc's own Shutdown closes a connection whose only
// request it is about to answer, and containerd takes a sandbox whose end was
// not answered for one that lives.
type peers struct {
	ttrpc.Handshaker // decides who may be one

	mu   sync.Mutex
	open int
	none chan struct{} // closed when open falls to 0
}

// Handshake lets a connection in.
func (p *peers) Handshake(ctx context.Context, conn net.Conn) (net.Conn, any, error) {
	conn, about, err := p.Handshaker.Handshake(ctx, conn)
	if err != nil {
		return conn, about, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.open == 0 {
		p.none = make(chan struct{})
	}
	p.open++
	return &peer{Conn: conn, leave: sync.OnceFunc(p.leave)}, about, nil
}

func (p *peers) leave() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.open--; p.open == 0 {
		close(p.none)
	}
}

// wait returns when there are none, or ctx is done.
func (p *peers) wait(ctx context.Context) {
	p.mu.Lock()
	open, none := p.open, p.none
	p.mu.Unlock()
	if open == 0 {
		return
	}
	select {
	case <-none:
	case <-ctx.Done():
	}
}

// peer is one connection.
type peer struct {
	net.Conn
	leave func()
}

func (p *peer) Close() error {
	defer p.leave()
	return p.Conn.Close()
}
