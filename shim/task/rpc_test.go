package task

import (
	"context"
	"net"
	"path/filepath"
	"strings"
	"testing"

	v2 "github.com/containerd/containerd/api/runtime/task/v2"
	v3 "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/api/types/task"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"
	"github.com/containerd/typeurl/v2"
	"github.com/hyperhq/hyper/shim/stdio"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
)

// dial serves f and returns a client of it.
func dial(t *testing.T, f *fixture) *ttrpc.Client {
	t.Helper()
	server, err := ttrpc.NewServer()
	if err != nil {
		t.Fatal(err)
	}
	Register(server, f.Service)
	l, err := net.Listen("unix", filepath.Join(f.dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(context.Background(), l) }()
	conn, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	client := ttrpc.NewClient(conn)
	t.Cleanup(func() {
		_ = client.Close()
		_ = server.Close()
		<-served
	})
	return client
}

// TestBothVersionsAreOne holds what serving both by one table rests on: every
// method and message of version 2 is there in version 3, with the same fields.
func TestBothVersionsAreOne(t *testing.T) {
	two := v2.File_runtime_task_v2_shim_proto
	three := v3.File_runtime_task_v3_shim_proto
	for i := range two.Messages().Len() {
		m := two.Messages().Get(i)
		o := three.Messages().ByName(m.Name())
		if o == nil {
			t.Errorf("version 3 has no %s", m.Name())
			continue
		}
		if !proto.Equal(strip(m), strip(o)) {
			t.Errorf("%s differs", m.Name())
		}
	}
	for _, file := range []protoreflect.FileDescriptor{two, three} {
		methods := file.Services().ByName("Task").Methods()
		for i := range methods.Len() {
			if _, ok := methodTable(t)[string(methods.Get(i).Name())]; !ok {
				t.Errorf("%s is not served", methods.Get(i).FullName())
			}
		}
		if n := len(methodTable(t)); n != methods.Len() {
			t.Errorf("%d methods are served, %s has %d", n, file.Path(), methods.Len())
		}
	}
}

func methodTable(*testing.T) map[string]ttrpc.Method { return methods(nil) }

// strip is a message's description without the package's name.
func strip(m protoreflect.MessageDescriptor) *descriptorpb.DescriptorProto {
	d := protodesc.ToDescriptorProto(m)
	for _, f := range d.Field {
		f.JsonName = nil
		if f.TypeName != nil {
			f.TypeName = proto.String(strings.Replace(*f.TypeName, ".task.v2.", ".task.v3.", 1))
		}
	}
	return d
}

func TestVersion2(t *testing.T) {
	f := newFixture(t, map[string][]string{"c": {"sh", "-c", "exit 5"}})
	c := v2.NewTTRPCTaskClient(dial(t, f))
	ctx := t.Context()
	if _, err := c.Create(ctx, &v2.CreateTaskRequest{ID: "c", Bundle: f.dir}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Start(ctx, &v2.StartRequest{ID: "c"}); err != nil {
		t.Fatal(err)
	}
	if w, err := c.Wait(ctx, &v2.WaitRequest{ID: "c"}); err != nil || w.ExitStatus != 5 {
		t.Errorf("wait: %v, %v", w, err)
	}
	if s, err := c.State(ctx, &v2.StateRequest{ID: "c"}); err != nil || s.Status != task.Status_STOPPED || s.Bundle != f.dir {
		t.Errorf("state: %v, %v", s, err)
	}
	if d, err := c.Delete(ctx, &v2.DeleteRequest{ID: "c"}); err != nil || d.ExitStatus != 5 || d.ExitedAt.AsTime().IsZero() {
		t.Errorf("delete: %v, %v", d, err)
	}
	if _, err := c.Shutdown(ctx, &v2.ShutdownRequest{ID: "c"}); err != nil {
		t.Error(err)
	}
	waitUntil(t, "shutdown", f.down)
}

func TestVersion3(t *testing.T) {
	f := newFixture(t, map[string][]string{"c": {"sleep", "60"}})
	client := dial(t, f)
	c := v3.NewTTRPCTaskClient(client)
	ctx := t.Context()
	if _, err := c.Create(ctx, &v3.CreateTaskRequest{ID: "c", Bundle: f.dir}); err != nil {
		t.Fatal(err)
	}
	_, err := c.Create(ctx, &v3.CreateTaskRequest{ID: "c", Bundle: f.dir})
	if !errdefs.IsAlreadyExists(errgrpc.ToNative(err)) {
		t.Errorf("create twice: %v", err)
	}
	if _, err := c.Start(ctx, &v3.StartRequest{ID: "c"}); err != nil {
		t.Fatal(err)
	}
	if err := f.exec("c", "e", stdio.Config{}, "true"); err != nil {
		t.Fatal(err)
	}
	pids, err := c.Pids(ctx, &v3.PidsRequest{ID: "c"})
	if err != nil || len(pids.Processes) != 2 {
		t.Fatalf("pids: %v, %v", pids, err)
	}
	info, err := typeurl.UnmarshalAny(pids.Processes[1].Info)
	if d, ok := info.(*options.ProcessDetails); err != nil || !ok || d.ExecID != "e" {
		t.Errorf("the exec's details: %v, %v", info, err)
	}
	stats, err := c.Stats(ctx, &v3.StatsRequest{ID: "c"})
	if err != nil || stats.Stats.TypeUrl != "io.containerd.cgroups.v2.Metrics" {
		t.Errorf("stats: %v, %v", stats, err)
	}
	if n, err := c.Connect(ctx, &v3.ConnectRequest{ID: "c"}); err != nil || n.TaskPid == 0 || n.ShimPid == 0 {
		t.Errorf("connect: %v, %v", n, err)
	}
	_, err = c.Checkpoint(ctx, &v3.CheckpointTaskRequest{ID: "c"})
	if !errdefs.IsNotImplemented(errgrpc.ToNative(err)) {
		t.Errorf("checkpoint: %v", err)
	}
	_, err = c.CloseIO(ctx, &v3.CloseIORequest{ID: "c"})
	if !errdefs.IsInvalidArgument(errgrpc.ToNative(err)) {
		t.Errorf("close nothing: %v", err)
	}
	d, err := Remove(ctx, client, "c")
	if err != nil || d.ExitStatus != killed {
		t.Errorf("remove: %v, %v", d, err)
	}
	if _, err := Remove(ctx, client, "c"); !errdefs.IsNotFound(err) {
		t.Errorf("remove twice: %v", err)
	}
}
