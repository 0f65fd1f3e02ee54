package sandboxapi

import (
	"context"
	"time"

	"github.com/containerd/cgroups/v3/cgroup2/stats"

	"github.com/hyperhq/hyper/sandbox"
)

// Sandbox is one pod. All methods may be called from any goroutine.
type Sandbox interface {
	// Boot starts the machine unless that runs, and returns once it can have
	// containers.
	Boot(ctx context.Context, o BootOptions) error
	// Status is what the sandbox is now.
	Status() Status
	// Metrics are what the sandbox uses of the host.
	Metrics(ctx context.Context) (*stats.Metrics, error)
	// Done is closed when the machine has ended and when there never will be
	// one; Exit then tells how.
	Done() <-chan struct{}
	Exit() Exit
	// Stop ends the machine and releases everything. It may be called again.
	Stop(ctx context.Context) error
}

// BootOptions are what containerd says of the machine. All of it is passed on.
type BootOptions = sandbox.BootOptions

// Status is what a sandbox is at one moment.
type Status struct {
	// Ready says that containers can be made.
	Ready bool
	// PID is a live process of the host in the pod's network namespace, or 0.
	PID uint32
	// CreatedAt is when the sandbox was made.
	CreatedAt time.Time
	// Info is for a person.
	Info map[string]string
}

// Exit is how a sandbox ended.
type Exit struct {
	Status uint32
	At     time.Time
}

// Tasks is the task service of the same sandbox.
type Tasks interface {
	// Hold keeps the shim when no container is left. It fails with
	// ErrUnavailable once the shim ends.
	Hold() error
	// Shutdown ends the shim if it was started for id, and no container lives.
	Shutdown(id string)
}
