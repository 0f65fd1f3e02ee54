package shim

import (
	"context"
	"net"
	"testing"
	"time"
)

// anybody may be a peer.
type anybody struct{}

func (anybody) Handshake(_ context.Context, conn net.Conn) (net.Conn, any, error) {
	return conn, nil, nil
}

func TestPeersAreWaitedFor(t *testing.T) {
	p := &peers{Handshaker: anybody{}}
	p.wait(t.Context()) // for none
	var conns []net.Conn
	for range 2 {
		ours, theirs := net.Pipe()
		defer theirs.Close()
		conn, _, err := p.Handshake(t.Context(), ours)
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, conn)
	}
	for _, conn := range conns {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		p.wait(ctx)
		if p.open == 0 {
			t.Fatal("nobody is left")
		}
		for range 2 {
			_ = conn.Close()
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if p.wait(ctx); p.open != 0 || ctx.Err() != nil {
		t.Errorf("%d are left, %v", p.open, ctx.Err())
	}
}
