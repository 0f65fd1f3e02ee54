package agent

import (
	"context"
	"io"
	"net"
	"testing"
	"time"

	"github.com/containerd/ttrpc"
	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"

	"github.com/hyperhq/hyper/proto/channel"
	agentv1 "github.com/hyperhq/hyper/proto/hyper/agent/v1"
)

func testAgent(t *testing.T) *Agent {
	t.Helper()
	a, err := newAgent(&logger{w: io.Discard, clock: sinceBoot}, &phases{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.oom.close)
	return a
}

// One session after the other is served, on one connection each; a session's
// end ends all that belongs to it.
func TestServeSessions(t *testing.T) {
	defer goleak.VerifyNone(t)
	a := testAgent(t)
	defer a.oom.close()
	conns := make(chan io.ReadWriteCloser)
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() {
		served <- a.serve(ctx, func(ctx context.Context) (io.ReadWriteCloser, error) {
			select {
			case c := <-conns:
				return c, nil
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		})
	}()
	for range 3 {
		host, guest := net.Pipe()
		conns <- guest
		useSession(t, host)
	}
	host, guest := net.Pipe()
	conns <- guest
	cancel()
	if err := <-served; err != nil {
		t.Error(err)
	}
	host.Close()
}

func useSession(t *testing.T, host net.Conn) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	session, err := channel.Connect(ctx, host)
	if err != nil {
		t.Fatal(err)
	}
	control, err := session.Open(t.Context(), channel.Header{Kind: channel.Control})
	if err != nil {
		t.Fatal(err)
	}
	rpc := ttrpc.NewClient(control)
	api := agentv1.NewAgentClient(rpc)
	_, err = api.WaitProcess(ctx, &agentv1.ProcessRef{ContainerId: "none"})
	wantCode(t, "wait for nothing", err, codes.NotFound)
	events, err := api.Events(ctx, &agentv1.EventsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	// A stream that nobody claims ends with the session, at the latest.
	if _, err := session.Open(t.Context(), channel.Header{Kind: channel.Stdio, ID: 7}); err != nil {
		t.Fatal(err)
	}
	session.Close()
	if _, err := events.Recv(); err == nil {
		t.Error("events go on without a session")
	}
	rpc.Close()
}

func TestARequestsPanicIsItsError(t *testing.T) {
	s := &service{agent: testAgent(t)}
	info := &ttrpc.UnaryServerInfo{FullMethod: "/test"}
	_, err := s.intercept(t.Context(), nil, info, func(context.Context, func(any) error) (any, error) { panic("boom") })
	wantCode(t, "panic", err, codes.Internal)
}

func TestEventsCutOffAListenerThatDoesNotRead(t *testing.T) {
	e := newEvents()
	stuck := make(chan struct{})
	listening := make(chan struct{})
	done := make(chan error, 1)
	go func() {
		first := true
		done <- e.forward(t.Context(), func(*agentv1.Event) error {
			if first {
				first = false
				close(listening)
				<-stuck
			}
			return nil
		})
	}()
	for { // until the listener is there
		e.publish(&agentv1.Event{})
		select {
		case <-listening:
		case <-time.After(time.Millisecond):
			continue
		}
		break
	}
	for range eventQueue + 1 {
		e.publish(&agentv1.Event{})
	}
	close(stuck)
	if err := <-done; codeOf(err) != codes.ResourceExhausted {
		t.Errorf("got %v", err)
	}
}
