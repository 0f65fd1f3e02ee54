package event

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/containerd/containerd/api/events"
	service "github.com/containerd/containerd/api/services/ttrpc/events/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/ttrpc"
	"github.com/containerd/typeurl/v2"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// daemon is containerd's event service, on a socket of its own.
type daemon struct {
	path   string
	server *ttrpc.Server
	served chan error

	mu      sync.Mutex
	got     []*types.Envelope
	headers []string
	refuse  int // how many calls fail from now on
	arrived chan struct{}
}

func newDaemon(t *testing.T) *daemon {
	d := &daemon{path: filepath.Join(t.TempDir(), "s"), arrived: make(chan struct{}, 1000)}
	d.start(t)
	t.Cleanup(d.stop)
	return d
}

func (d *daemon) start(t *testing.T) {
	t.Helper()
	l, err := net.Listen("unix", d.path)
	if err != nil {
		t.Fatal(err)
	}
	if d.server, err = ttrpc.NewServer(); err != nil {
		t.Fatal(err)
	}
	service.RegisterTTRPCEventsService(d.server, d)
	d.served = make(chan error, 1)
	go func(s *ttrpc.Server, served chan<- error) { served <- s.Serve(context.Background(), l) }(d.server, d.served)
}

func (d *daemon) stop() {
	_ = d.server.Close()
	<-d.served
}

func (d *daemon) Forward(ctx context.Context, r *service.ForwardRequest) (*emptypb.Empty, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.refuse > 0 {
		d.refuse--
		return nil, errors.New("not now")
	}
	d.got = append(d.got, r.Envelope)
	md, _ := ttrpc.GetMetadata(ctx)
	ns, _ := md.Get("containerd-namespace-ttrpc")
	d.headers = append(d.headers, fmt.Sprint(ns))
	d.arrived <- struct{}{}
	return &emptypb.Empty{}, nil
}

// await waits until n events have arrived since the last call.
func (d *daemon) await(t *testing.T, n int) {
	t.Helper()
	for range n {
		select {
		case <-d.arrived:
		case <-time.After(20 * time.Second):
			t.Fatal("an event did not arrive")
		}
	}
}

// ids are the exec ids of the events in the order of their arrival.
func (d *daemon) ids(t *testing.T) []string {
	t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	var ids []string
	for i, e := range d.got {
		if i > 0 && proto.Equal(e, d.got[i-1]) {
			continue // taken, but stopped before it could say so
		}
		v, err := typeurl.UnmarshalAny(e.Event)
		if err != nil {
			t.Fatalf("containerd can not decode %s: %v", e.Event.TypeUrl, err)
		}
		ids = append(ids, v.(*events.TaskExecAdded).ExecID)
	}
	return ids
}

func publish(q *Queue, from, to int) {
	for i := from; i < to; i++ {
		q.Publish("/tasks/exec-added", &events.TaskExecAdded{ContainerID: "c", ExecID: fmt.Sprint(i)})
	}
}

func wantOrder(t *testing.T, ids []string, n int) {
	t.Helper()
	if len(ids) != n {
		t.Fatalf("%d events arrived, want %d", len(ids), n)
	}
	for i, id := range ids {
		if id != fmt.Sprint(i) {
			t.Fatalf("event %d is %s", i, id)
		}
	}
}

func closeAll(t *testing.T, q *Queue, r *Remote) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := q.Close(ctx); err != nil {
		t.Error(err)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
}

func TestOrderSurvivesRefusalsAndARestart(t *testing.T) {
	d := newDaemon(t)
	r := NewRemote("unix://" + d.path)
	q := NewQueue(t.Context(), "ns", r)
	d.refuse = 2
	publish(q, 0, 50)
	d.await(t, 50)
	d.stop()
	publish(q, 50, 100)
	d.start(t)
	publish(q, 100, 150)
	closeAll(t, q, r) // delivers what is left
	wantOrder(t, d.ids(t), 150)
	for i, e := range d.got {
		if e.Namespace != "ns" || e.Topic != "/tasks/exec-added" || e.Timestamp == nil || d.headers[i] != "[ns]" {
			t.Fatalf("event %d is %v with namespace %s", i, e, d.headers[i])
		}
	}
}

func TestCloseIsBounded(t *testing.T) {
	r := NewRemote(filepath.Join(t.TempDir(), "nobody"))
	q := NewQueue(t.Context(), "ns", r)
	publish(q, 0, 3)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := q.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("close: %v", err)
	}
	publish(q, 3, 4) // does nothing
}

func TestQueueIsBounded(t *testing.T) {
	hold := make(chan struct{})
	f := &holding{hold: hold}
	q := NewQueue(t.Context(), "ns", f)
	publish(q, 0, maxQueue+100)
	close(hold)
	if err := q.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if f.n < maxQueue || f.n > maxQueue+1 {
		t.Errorf("%d events were delivered", f.n)
	}
	if f.last != fmt.Sprint(maxQueue+99) {
		t.Errorf("the last one is %s", f.last)
	}
}

// holding takes events once hold is closed. Only the queue's goroutine uses it.
type holding struct {
	hold chan struct{}
	n    int
	last string
}

func (h *holding) Forward(_ context.Context, e *types.Envelope) error {
	<-h.hold
	v, err := typeurl.UnmarshalAny(e.Event)
	if err != nil {
		return err
	}
	h.n++
	h.last = v.(*events.TaskExecAdded).ExecID
	return nil
}

func TestNobodyListens(t *testing.T) {
	r := NewRemote("")
	q := NewQueue(t.Context(), "ns", r)
	publish(q, 0, 10)
	closeAll(t, q, r)
}
