package task

import (
	"context"
	"io"
	"time"

	"github.com/containerd/cgroups/v3/cgroup2/stats"
	"github.com/containerd/containerd/api/types"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Sandbox is one pod. All methods may be called from any goroutine.
type Sandbox interface {
	// CreateContainer makes a container; the first call boots the machine.
	CreateContainer(ctx context.Context, o ContainerOptions) (Container, error)
	// PID is a live host process of the sandbox, 0 before the machine runs.
	PID() int
	// OOMs receives the id of a container whenever its kernel killed one of
	// its processes for want of memory. It may be closed.
	OOMs() <-chan string
	// Stop ends the machine and releases everything. It may be called again.
	Stop(ctx context.Context) error
}

// ContainerOptions is what a container is made from.
type ContainerOptions struct {
	ID     string
	Bundle string
	Rootfs []*types.Mount
	Streams
}

// Streams are those that a process needs.
type Streams struct {
	Terminal, Stdin, Stdout, Stderr bool
}

// Container is a container of a sandbox.
type Container interface {
	// Init returns the first process.
	Init() Process
	// Exec makes another process, to be started.
	Exec(ctx context.Context, id string, spec *specs.Process, s Streams) (Process, error)
	Pause(ctx context.Context) error
	Resume(ctx context.Context) error
	Update(ctx context.Context, r *specs.LinuxResources) error
	Stats(ctx context.Context) (*stats.Metrics, error)
	// Pids lists the processes by their ids in the guest.
	Pids(ctx context.Context) ([]ProcessInfo, error)
	// Signal signals all processes.
	Signal(ctx context.Context, signal uint32) error
}

// ProcessInfo is a process in the guest; ExecID is empty unless it is the
// first process of an exec.
type ProcessInfo struct {
	PID    uint32
	ExecID string
}

// Process is a container's init or an exec.
type Process interface {
	State() State
	Start(ctx context.Context) error
	// Signal fails with ErrNotFound once the process is gone.
	Signal(ctx context.Context, signal uint32) error
	Resize(ctx context.Context, width, height uint32) error
	// Stdin, Stdout and Stderr are the streams, nil where not asked for. They
	// end with the process, or at the latest when it is deleted.
	Stdin() io.WriteCloser
	Stdout() io.Reader
	Stderr() io.Reader
	// Done is closed when the process has exited or the machine is dead.
	Done() <-chan struct{}
	// Exit tells how, after Done.
	Exit() Exit
	// Delete releases the process; for an init the container. It fails with
	// ErrFailedPrecondition while the process runs.
	Delete(ctx context.Context) error
}

// Exit is how a process ended.
type Exit struct {
	Status uint32
	At     time.Time
	// StdoutBytes and StderrBytes are what the process's streams carried up to
	// its end; what is still to be written of that is waited for.
	StdoutBytes, StderrBytes uint64
}

// State is a process's state in the guest.
type State int

// The states of a process.
const (
	Created State = iota
	Running
	Paused
	Stopped
)
