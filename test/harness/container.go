package harness

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	containersapi "github.com/containerd/containerd/api/services/containers/v1"
	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	tasksapi "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/types/known/anypb"
)

// T is what this package needs of a *testing.T.
type T interface {
	Helper()
	Logf(format string, args ...any)
	Fatalf(format string, args ...any)
	Cleanup(func())
	Context() context.Context
}

const snapshotter = "overlayfs"

// Option changes a container's OCI specification.
type Option func(*specs.Spec)

// Args sets what the container runs.
func Args(args ...string) Option {
	return func(s *specs.Spec) { s.Process.Args = args }
}

// Sh runs a script by the container's shell.
func Sh(script string) Option { return Args("sh", "-c", script) }

// Annotation sets one annotation.
func Annotation(key, value string) Option {
	return func(s *specs.Spec) {
		if s.Annotations == nil {
			s.Annotations = map[string]string{}
		}
		s.Annotations[key] = value
	}
}

// Mount adds a mount.
func Mount(kind, source, target string, options ...string) Option {
	return func(s *specs.Spec) {
		s.Mounts = append(s.Mounts, specs.Mount{Type: kind, Source: source, Destination: target, Options: options})
	}
}

// Container is a container that containerd knows, with a root filesystem.
type Container struct {
	ID   string
	Cell *Cell
	Spec *specs.Spec

	sandbox string // id of the sandbox that it was made for, or empty
	rootfs  []*types.Mount
}

// Container makes a container which runs `sh` unless options say otherwise,
// with containerd's default specification. It is removed, its task killed if
// there is one, when the test ends.
func (c *Cell) Container(t T, options ...Option) *Container {
	t.Helper()
	id, err := c.NewID()
	if err != nil {
		t.Fatalf("making an id: %v", err)
	}
	return c.ContainerWithID(t, id, options...)
}

// ContainerWithID is Container with an id of the caller's choice.
func (c *Cell) ContainerWithID(t T, id string, options ...Option) *Container {
	t.Helper()
	return c.container(t, id, "", options...)
}

// Always has options apply to each container that is made from now on with containerd's
// default specification, before the container's own, until it is called again.
func (c *Cell) Always(options ...Option) { c.always = options }

// AlwaysAnnotations are the annotations that such options give a container, for one that
// is made by other means.
func (c *Cell) AlwaysAnnotations() map[string]string {
	var s specs.Spec
	for _, option := range c.always {
		option(&s)
	}
	return s.Annotations
}

// container makes a container, in a sandbox if that is not empty.
func (c *Cell) container(t T, id, sandbox string, options ...Option) *Container {
	t.Helper()
	ctx, cancel := request(t)
	defer cancel()
	spec, err := defaultSpec(ctx, c.Namespace, id)
	if err != nil {
		t.Fatalf("making the specification of %s: %v", id, err)
	}
	for _, option := range slices.Concat(c.always, options) {
		option(spec)
	}
	container := &Container{ID: id, Cell: c, Spec: spec, sandbox: sandbox}
	t.Cleanup(func() { container.remove(t) })
	if err := container.make(ctx); err != nil {
		t.Fatalf("making the container %s: %v", id, err)
	}
	return container
}

// defaultSpec is what `ctr run` without options gives a container.
func defaultSpec(ctx context.Context, namespace, id string) (*specs.Spec, error) {
	ctx = namespaces.WithNamespace(ctx, namespace)
	return oci.GenerateSpec(ctx, nil, &containers.Container{ID: id},
		oci.WithDefaultUnixDevices,
		oci.WithProcessArgs("sh"),
		oci.WithEnv([]string{"PATH=/bin:/sbin:/usr/bin"}),
	)
}

func (c *Container) make(ctx context.Context) error {
	spec, err := asAny("Spec", c.Spec)
	if err != nil {
		return err
	}
	return c.record(ctx, spec)
}

// record makes the container known to containerd, and its root filesystem.
func (c *Container) record(ctx context.Context, spec *anypb.Any) error {
	_, err := c.Cell.client.containers.Create(ctx, &containersapi.CreateContainerRequest{
		Container: &containersapi.Container{
			ID:          c.ID,
			Runtime:     &containersapi.Container_Runtime{Name: c.Cell.Runtime, Options: c.Cell.runtimeOptions},
			Spec:        spec,
			Snapshotter: snapshotter,
			SnapshotKey: c.ID,
			Sandbox:     c.sandbox,
		},
	})
	if err != nil {
		return err
	}
	// Only now: a snapshot that nothing refers to is garbage to containerd.
	prepared, err := c.Cell.client.snapshots.Prepare(ctx, &snapshotsapi.PrepareSnapshotRequest{
		Snapshotter: snapshotter, Key: c.ID, Parent: c.Cell.chainID,
	})
	if err != nil {
		return fmt.Errorf("preparing its root filesystem: %w", err)
	}
	c.rootfs = prepared.Mounts
	return nil
}

// specURL begins the names of the types of the OCI runtime specification.
const specURL = "types.containerd.io/opencontainers/runtime-spec/1/"

// asAny encodes a type of the OCI runtime specification as containerd does.
func asAny(name string, v any) (*anypb.Any, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	return &anypb.Any{TypeUrl: specURL + name, Value: data}, nil
}

// Upper is the directory of its snapshot that has what it has written.
func (c *Container) Upper() string {
	for _, m := range c.rootfs {
		for _, option := range m.Options {
			if dir, ok := strings.CutPrefix(option, "upperdir="); ok {
				return dir
			}
		}
	}
	return ""
}

// remove ends the container as a user would clean up, in whatever state it is.
func (c *Container) remove(t T) {
	ctx, cancel := context.WithTimeout(context.Background(), patienceOf(t))
	defer cancel()
	if c.Cell.client == nil {
		return
	}
	if err := c.Remove(ctx); err != nil {
		t.Logf("removing the container %s: %v", c.ID, err)
	}
}

// Remove kills and deletes the container's task if there is one, and then the
// container. What is already gone is no error.
func (c *Container) Remove(ctx context.Context) error {
	tasks := c.Cell.client.tasks
	err := found(tasks.Kill(ctx, &tasksapi.KillRequest{ContainerID: c.ID, Signal: 9, All: true}))
	if err == nil {
		err = found(tasks.Wait(ctx, &tasksapi.WaitRequest{ContainerID: c.ID}))
	}
	return errors.Join(err,
		found(tasks.Delete(ctx, &tasksapi.DeleteTaskRequest{ContainerID: c.ID})),
		found(c.Cell.client.containers.Delete(ctx, &containersapi.DeleteContainerRequest{ID: c.ID})),
		found(c.Cell.client.snapshots.Remove(ctx, &snapshotsapi.RemoveSnapshotRequest{Snapshotter: snapshotter, Key: c.ID})),
	)
}

// found drops the error of something that is not there.
func found[R any](_ R, err error) error {
	if native := errgrpc.ToNative(err); err != nil && !errdefs.IsNotFound(native) {
		return native
	}
	return nil
}

// Result is what became of a process.
type Result struct {
	Status         uint32
	Stdout, Stderr string
}

// Run runs a container to its end and removes it.
func (c *Cell) Run(t T, options ...Option) Result {
	t.Helper()
	container := c.Container(t, options...)
	return container.Run(t, IO{})
}

// Run runs a container's init to its end and deletes the task.
func (c *Container) Run(t T, streams IO) Result {
	t.Helper()
	p := c.Create(t, streams)
	p.Start(t)
	return p.Finish(t)
}

// ContainerWithSpec is Container with a specification that is given as it is,
// good or bad.
func (c *Cell) ContainerWithSpec(t T, spec []byte) *Container {
	t.Helper()
	id, err := c.NewID()
	if err != nil {
		t.Fatalf("making an id: %v", err)
	}
	ctx, cancel := request(t)
	defer cancel()
	container := &Container{ID: id, Cell: c, Spec: &specs.Spec{}}
	t.Cleanup(func() { container.remove(t) })
	if err := container.record(ctx, &anypb.Any{TypeUrl: specURL + "Spec", Value: spec}); err != nil {
		t.Fatalf("making the container %s: %v", id, err)
	}
	return container
}
