package harness

import (
	"context"
	"errors"
	"time"

	sandboxapi "github.com/containerd/containerd/api/services/sandbox/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// sandboxer is the name of containerd's sandbox controller that asks the shim.
const sandboxer = "shim"

// Sandbox is a sandbox of containerd's sandbox API, which 2.0 and later have.
type Sandbox struct {
	ID   string
	Cell *Cell
}

// store and control are services of the containerd that runs now.
func (s *Sandbox) store() sandboxapi.StoreClient {
	return sandboxapi.NewStoreClient(s.Cell.client.conn)
}
func (s *Sandbox) control() sandboxapi.ControllerClient {
	return sandboxapi.NewControllerClient(s.Cell.client.conn)
}

// Sandbox creates a sandbox, which is not started. It is removed, and with it
// what lives in it, when the test ends.
func (c *Cell) Sandbox(t T) *Sandbox {
	t.Helper()
	return c.SandboxOf(t, nil)
}

// SandboxOf is Sandbox with a configuration, as `ctr sandbox run` has one: of no container.
func (c *Cell) SandboxOf(t T, spec *specs.Spec) *Sandbox {
	t.Helper()
	id, err := c.NewID()
	if err != nil {
		t.Fatalf("making an id: %v", err)
	}
	s := &Sandbox{ID: id, Cell: c}
	ctx, cancel := request(t)
	defer cancel()
	sandbox := &types.Sandbox{SandboxID: id, Runtime: &types.Sandbox_Runtime{Name: c.Runtime}, Sandboxer: sandboxer}
	if spec != nil {
		any, err := asAny("Spec", spec)
		if err != nil {
			t.Fatalf("making the configuration of sandbox %s: %v", id, err)
		}
		sandbox.Spec = any
	}
	if _, err := s.store().Create(ctx, &sandboxapi.StoreCreateRequest{Sandbox: sandbox}); err != nil {
		t.Fatalf("recording the sandbox %s: %v", id, err)
	}
	t.Cleanup(func() {
		if err := s.Remove(); err != nil {
			t.Logf("removing the sandbox %s: %v", id, err)
		}
	})
	_, err = s.control().Create(ctx, &sandboxapi.ControllerCreateRequest{SandboxID: id, Sandbox: sandbox, Sandboxer: sandboxer})
	if err != nil {
		t.Fatalf("creating the sandbox %s: %v", id, errgrpc.ToNative(err))
	}
	return s
}

// Remove stops and shuts the sandbox down, and forgets it. What is already gone
// is no error.
func (s *Sandbox) Remove() error {
	if s.Cell.client == nil {
		return errors.New("containerd does not run")
	}
	ctx, cancel := context.WithTimeout(context.Background(), Slowly(Patience))
	defer cancel()
	return errors.Join(
		found(s.control().Stop(ctx, &sandboxapi.ControllerStopRequest{SandboxID: s.ID, Sandboxer: sandboxer})),
		found(s.control().Shutdown(ctx, &sandboxapi.ControllerShutdownRequest{SandboxID: s.ID, Sandboxer: sandboxer})),
		found(s.store().Delete(ctx, &sandboxapi.StoreDeleteRequest{SandboxID: s.ID})),
	)
}

// Container is Cell.Container in the sandbox.
func (s *Sandbox) Container(t T, options ...Option) *Container {
	t.Helper()
	id, err := s.Cell.NewID()
	if err != nil {
		t.Fatalf("making an id: %v", err)
	}
	return s.Cell.container(t, id, s.ID, options...)
}

// Start starts the sandbox and returns its pid.
func (s *Sandbox) Start(t T) (pid uint32) {
	t.Helper()
	pid, err := s.TryStart(t)
	if err != nil {
		t.Fatalf("starting the sandbox %s: %v", s.ID, err)
	}
	return pid
}

// TryStart starts the sandbox.
func (s *Sandbox) TryStart(t T) (pid uint32, err error) {
	ctx, cancel := request(t)
	defer cancel()
	reply, err := s.control().Start(ctx, &sandboxapi.ControllerStartRequest{SandboxID: s.ID, Sandboxer: sandboxer})
	return reply.GetPid(), errgrpc.ToNative(err)
}

// Status asks for the sandbox's state, with all that is known.
func (s *Sandbox) Status(t T) *sandboxapi.ControllerStatusResponse {
	t.Helper()
	ctx, cancel := request(t)
	defer cancel()
	reply, err := s.control().Status(ctx, &sandboxapi.ControllerStatusRequest{SandboxID: s.ID, Sandboxer: sandboxer, Verbose: true})
	if err != nil {
		t.Fatalf("asking for the state of sandbox %s: %v", s.ID, errgrpc.ToNative(err))
	}
	return reply
}

// Metrics asks for the sandbox's metrics.
func (s *Sandbox) Metrics(t T) (*types.Metric, error) {
	ctx, cancel := request(t)
	defer cancel()
	reply, err := s.control().Metrics(ctx, &sandboxapi.ControllerMetricsRequest{SandboxID: s.ID, Sandboxer: sandboxer})
	return reply.GetMetrics(), errgrpc.ToNative(err)
}

// SandboxExit is what a wait for a sandbox came to.
type SandboxExit struct {
	Exit
	Err error
}

// Waiting begins to wait for the sandbox's end, for at most limit, and returns
// where the answer will come.
func (s *Sandbox) Waiting(t T, limit time.Duration) <-chan SandboxExit {
	answer := make(chan SandboxExit, 1)
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	go func() {
		defer cancel()
		reply, err := s.control().Wait(ctx, &sandboxapi.ControllerWaitRequest{SandboxID: s.ID, Sandboxer: sandboxer})
		answer <- SandboxExit{
			Exit: Exit{Status: reply.GetExitStatus(), At: reply.GetExitedAt().AsTime()},
			Err:  errgrpc.ToNative(err),
		}
	}()
	return answer
}

// Stop stops the sandbox.
func (s *Sandbox) Stop(t T) error {
	ctx, cancel := request(t)
	defer cancel()
	_, err := s.control().Stop(ctx, &sandboxapi.ControllerStopRequest{SandboxID: s.ID, Sandboxer: sandboxer, TimeoutSecs: 20})
	return errgrpc.ToNative(err)
}

// Shutdown ends the sandbox's shim.
func (s *Sandbox) Shutdown(t T) error {
	ctx, cancel := request(t)
	defer cancel()
	_, err := s.control().Shutdown(ctx, &sandboxapi.ControllerShutdownRequest{SandboxID: s.ID, Sandboxer: sandboxer})
	return errgrpc.ToNative(err)
}
