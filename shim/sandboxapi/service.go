package sandboxapi

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/containerd/cgroups/v3/cgroup2/stats"
	api "github.com/containerd/containerd/api/runtime/sandbox/v1"
	"github.com/containerd/errdefs"
)

// stopTimeout bounds a stop that containerd gives no time for.
const stopTimeout = 10 * time.Second

// Options are what a Service needs.
type Options struct {
	// Open gives the sandbox, the same that the task service has.
	Open func() (Sandbox, error)
	// Tasks is that task service.
	Tasks Tasks
	// Shutdown begins the end of the shim. It must not wait for the call that it
	// is called from.
	Shutdown func()
}

// Service is the sandbox service of one shim, which has one sandbox.
type Service struct {
	o Options

	mu      sync.Mutex
	id      string      // empty before Create
	boot    BootOptions // not written after that
	sandbox Sandbox
}

// New returns a service that has no sandbox yet.
func New(o Options) *Service { return &Service{o: o} }

// Create makes the sandbox, without a machine. A shim has one:
// ErrAlreadyExists.
func (s *Service) Create(_ context.Context, r *api.CreateSandboxRequest) error {
	if r.SandboxID == "" {
		return fmt.Errorf("create a sandbox: an id must be given: %w", errdefs.ErrInvalidArgument)
	}
	if len(r.Rootfs) > 0 {
		return fmt.Errorf("create sandbox %s: it has no root filesystem of its own to mount: %w", r.SandboxID, errdefs.ErrNotImplemented)
	}
	boot, err := bootOptions(r)
	if err != nil {
		return fmt.Errorf("create sandbox %s: %w", r.SandboxID, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.id != "" {
		return fmt.Errorf("create sandbox %s: this shim has sandbox %s: %w", r.SandboxID, s.id, errdefs.ErrAlreadyExists)
	}
	sandbox, err := s.o.Open()
	if err == nil {
		err = s.o.Tasks.Hold()
	}
	if err != nil {
		return fmt.Errorf("create sandbox %s: %w", r.SandboxID, err)
	}
	s.id, s.sandbox, s.boot = r.SandboxID, sandbox, boot
	return nil
}

// bootOptions are what a request says of the machine.
func bootOptions(r *api.CreateSandboxRequest) (BootOptions, error) {
	p, err := decodePod(r.Options)
	if err != nil {
		return BootOptions{}, err
	}
	maps.Copy(p.annotations, r.Annotations)
	etc, err := p.etc()
	if err != nil {
		return BootOptions{}, err
	}
	return BootOptions{
		Bundle: r.BundlePath, Annotations: p.annotations, Resources: p.resources, NetNS: r.NetnsPath,
		Hostname: p.hostname, HostNetwork: p.hostNetwork, Cgroup: p.cgroup(r.SandboxID), Sysctls: p.sysctls, Etc: etc,
	}, nil
}

// get gives the sandbox if it has that id.
func (s *Service) get(id string) (Sandbox, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.id == "" || s.id != id {
		return nil, fmt.Errorf("sandbox %s: %w", id, errdefs.ErrNotFound)
	}
	return s.sandbox, nil
}

// Start boots the machine, and returns once containers can be made.
func (s *Service) Start(ctx context.Context, id string) (Status, error) {
	sandbox, err := s.get(id)
	if err != nil {
		return Status{}, err
	}
	if err := sandbox.Boot(ctx, s.boot); err != nil {
		return Status{}, fmt.Errorf("start sandbox %s: %w", id, err)
	}
	return sandbox.Status(), nil
}

// Status is what the sandbox is now, and how it ended if it has.
func (s *Service) Status(id string) (Status, *Exit, error) {
	sandbox, err := s.get(id)
	if err != nil {
		return Status{}, nil, err
	}
	select {
	case <-sandbox.Done():
		exit := sandbox.Exit()
		return sandbox.Status(), &exit, nil
	default:
		return sandbox.Status(), nil, nil
	}
}

// Wait returns how the sandbox ended, once it has.
func (s *Service) Wait(ctx context.Context, id string) (Exit, error) {
	sandbox, err := s.get(id)
	if err != nil {
		return Exit{}, err
	}
	select {
	case <-sandbox.Done():
		return sandbox.Exit(), nil
	case <-ctx.Done():
		return Exit{}, fmt.Errorf("wait for sandbox %s: %w", id, context.Cause(ctx))
	}
}

// Ping fails with ErrUnavailable once the sandbox has ended.
func (s *Service) Ping(id string) error {
	sandbox, err := s.get(id)
	if err != nil {
		return err
	}
	select {
	case <-sandbox.Done():
		return fmt.Errorf("sandbox %s has ended: %w", id, errdefs.ErrUnavailable)
	default:
		return nil
	}
}

// Metrics are what the sandbox uses of the host. It fails with
// ErrUnavailable while no machine runs.
func (s *Service) Metrics(ctx context.Context, id string) (*stats.Metrics, error) {
	sandbox, err := s.get(id)
	if err != nil {
		return nil, err
	}
	m, err := sandbox.Metrics(ctx)
	if err != nil {
		return nil, fmt.Errorf("measure sandbox %s: %w", id, err)
	}
	return m, nil
}

// Stop ends the machine, and with it every task, within timeout; 0 leaves the
// time to us. The sandbox can be asked of still. It may be called again.
func (s *Service) Stop(ctx context.Context, id string, timeout time.Duration) error {
	sandbox, err := s.get(id)
	if err != nil {
		return err
	}
	if timeout == 0 {
		timeout = stopTimeout
	}
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("it did not end within %s: %w", timeout, context.DeadlineExceeded))
	defer cancel()
	if err := sandbox.Stop(ctx); err != nil {
		return fmt.Errorf("stop sandbox %s: %w", id, err)
	}
	return nil
}

// Shutdown ends the sandbox and then the shim. When the sandbox does not end,
// the shim's end sees to that again. If the sandbox was not created, the shim
// ends as after a task: if it was started for id and no container lives.
func (s *Service) Shutdown(ctx context.Context, id string) error {
	if _, err := s.get(id); err != nil {
		s.o.Tasks.Shutdown(id)
		return nil
	}
	err := s.Stop(ctx, id, 0)
	s.o.Shutdown()
	return err
}

// Close ends the sandbox if there is one.
func (s *Service) Close(ctx context.Context) error {
	s.mu.Lock()
	id, sandbox := s.id, s.sandbox
	s.mu.Unlock()
	if sandbox == nil {
		return nil
	}
	if err := sandbox.Stop(ctx); err != nil {
		return fmt.Errorf("stop sandbox %s: %w", id, err)
	}
	return nil
}
