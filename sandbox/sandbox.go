package sandbox

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/containerd/v2/pkg/identifiers"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"

	"github.com/hyperhq/hyper/config"
	"github.com/hyperhq/hyper/sandbox/factory"
	"github.com/hyperhq/hyper/sandbox/volume"
	"github.com/hyperhq/hyper/virtcontainers"
)

// Factory makes the sandbox's virtual machine.
type Factory interface {
	// Make starts a machine and returns once its processes run.
	Make(ctx context.Context, spec factory.Spec) (*factory.Machine, error)
}

// Options say what a sandbox is made with.
type Options struct {
	// ID and Namespace are containerd's.
	ID, Namespace string
	// Dir is the sandbox's own directory. It is made by New and removed by Stop.
	Dir string
	// Config is the operator's configuration.
	Config *config.Config
	// Factory makes the virtual machine; nil is one as Config says.
	Factory Factory
	// Parked is a machine that was made ahead, or nil. The sandbox has it if it is what
	// the first container wants, and ends it if it is not, or none comes.
	Parked *Parked
	// BuildTemplate has the template of a kind of machines built by a process that
	// does not end with this one, and returns at once: see factory.Build. With nil
	// only templates that are there are used.
	BuildTemplate func(factory.Kind) error
	// BuildImage has the disk image of layers built by a process that does not end with
	// this one, and returns at once: see layers.Cache. With nil none are built.
	BuildImage func(lower []string) error
}

// Sandbox is one pod. Its methods may be called from any goroutine.
type Sandbox struct {
	opts Options
	log  *log.Entry
	// parked is Options.Parked until somebody takes it.
	parked atomic.Pointer[Parked]
	share  *share
	// sockets are those of the host that containers have.
	sockets hostSockets
	oom     chan string

	// life ends with Stop; tasks are the goroutines that end with it.
	life       context.Context
	endLife    context.CancelFunc
	tasks      tasks
	nextStream atomic.Uint64
	// placesMade counts directories of containers in the share, ever.
	placesMade atomic.Uint64
	// rootfsMade counts root filesystems on disks, ever.
	rootfsMade atomic.Uint64

	createdAt time.Time
	ending    sync.Once
	ended     chan struct{} // closed by end, after exit is written
	exit      Exit

	mu         sync.Mutex
	stopped    bool
	watcher    *volume.Watcher // nil before the first volume that is copied
	guest      *guest          // nil before Boot or the first container
	booted     bool            // by Boot
	last       bool            // no container is made any more: see endsWith
	etc        map[string]string
	containers map[string]*Container
}

// New makes a sandbox that has no machine yet: Boot or the first container
// brings it.
// The calling process must be in a mount namespace of its own whose mounts do
// not propagate to the host's.
func New(o Options) (*Sandbox, error) {
	if err := identifiers.Validate(o.ID); err != nil {
		return nil, fmt.Errorf("sandbox id: %w", err)
	}
	if o.Factory == nil {
		machines, err := newFactory(o)
		if err != nil {
			return nil, err
		}
		o.Factory = machines
	}
	if err := os.MkdirAll(o.Dir, 0o711); err != nil {
		return nil, fmt.Errorf("making the directory of sandbox %s: %w", o.ID, err)
	}
	share, err := newShare(filepath.Join(o.Dir, "share"))
	if err != nil {
		return nil, err
	}
	life, end := context.WithCancel(context.Background())
	s := &Sandbox{
		opts:       o,
		log:        log.L.WithField("sandbox", o.ID),
		share:      share,
		sockets:    hostSockets{byID: make(map[uint64]*hostSocket)},
		oom:        make(chan string, 64),
		life:       life,
		endLife:    end,
		createdAt:  time.Now(),
		ended:      make(chan struct{}),
		containers: make(map[string]*Container),
	}
	s.parked.Store(o.Parked)
	return s, nil
}

// newFactory makes the factory that the configuration asks for. Only a machine of
// type q35 can be cloned.
func newFactory(o Options) (Factory, error) {
	if o.Config.Template.Enable && o.Config.QEMU.Machine == config.MachineQ35 {
		return factory.NewCloning(o.Config, o.BuildTemplate)
	}
	return factory.NewCold(o.Config)
}

// Container returns a container of the sandbox, or errdefs.ErrNotFound.
func (s *Sandbox) Container(id string) (*Container, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c, ok := s.containers[id]; ok && c.created {
		return c, nil
	}
	return nil, fmt.Errorf("container %s: %w", id, errdefs.ErrNotFound)
}

// Len is the number of containers.
func (s *Sandbox) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.containers)
}

// PID is a live process of the host that stands for the sandbox, 0 before the
// machine has started.
func (s *Sandbox) PID() int {
	s.mu.Lock()
	g := s.guest
	s.mu.Unlock()
	if g == nil {
		return 0
	}
	return g.pid()
}

// OOMs gives the ids of containers in which the guest's kernel ended a process
// for want of memory. It is never closed.
func (s *Sandbox) OOMs() <-chan string { return s.oom }

// Stop ends the machine and releases all that the sandbox has, from any state.
// Every process then counts as killed. It may be called again, also to go on
// where an earlier call failed.
func (s *Sandbox) Stop(ctx context.Context) error {
	s.mu.Lock()
	s.stopped = true
	g := s.guest
	s.mu.Unlock()
	s.endLife()
	if g != nil {
		if err := g.end(ctx); err != nil {
			return fmt.Errorf("stopping sandbox %s: %w", s.opts.ID, err)
		}
	}
	s.parked.Swap(nil).discard(s)
	s.tasks.Wait()
	s.closeWatcher()
	s.end()
	for _, c := range s.take() {
		c.afterDelete(ctx)
	}
	if g != nil && g.cgroup != nil {
		if err := g.cgroup.Remove(ctx); err != nil {
			s.log.WithError(err).Error("stopping a sandbox")
		}
	}
	if err := s.share.remove(); err != nil {
		return fmt.Errorf("stopping sandbox %s: %w", s.opts.ID, err)
	}
	if err := os.RemoveAll(s.opts.Dir); err != nil {
		return fmt.Errorf("removing the directory of sandbox %s: %w", s.opts.ID, err)
	}
	return nil
}

// made are the containers that were created.
func (s *Sandbox) made() []*Container {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.DeleteFunc(slices.Collect(maps.Values(s.containers)), func(c *Container) bool { return !c.created })
}

// take empties the sandbox.
func (s *Sandbox) take() []*Container {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []*Container
	for id, c := range s.containers {
		all = append(all, c)
		delete(s.containers, id)
	}
	return all
}

func (s *Sandbox) stoppedError() error {
	return fmt.Errorf("sandbox %s is stopped: %w", s.opts.ID, errdefs.ErrFailedPrecondition)
}

// reserve makes room for a container, plans it and gives it the guest it will
// run in, which boots if there is none yet.
func (s *Sandbox) reserve(c *Container) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return s.stoppedError()
	}
	if s.last {
		return s.lastError()
	}
	if _, ok := s.containers[c.id]; ok {
		return fmt.Errorf("container %s: %w", c.id, errdefs.ErrAlreadyExists)
	}
	s.boundRootDisksLocked(c)
	if err := c.makePlan(s.guest == nil); err != nil {
		return err
	}
	if err := s.checkShare(c); err != nil {
		return err
	}
	size, err := s.size(c.spec.Annotations, c.spec.Linux.Resources)
	if err != nil {
		return err
	}
	if s.guest != nil {
		if _, err := s.need(s.guest, c.spec.Linux.Resources); err != nil {
			return err
		}
	}
	c.limits = c.spec.Linux.Resources
	c.guest, err = s.machineLocked(hardware{
		sizing: size, pod: c.plan.Pod, share: c.wantsShare(),
		alone: virtcontainers.RoleOf(c.spec.Annotations) == virtcontainers.Alone,
	})
	if err != nil {
		return err
	}
	s.containers[c.id] = c
	return nil
}

// wantsShare says whether the machine that the container brings is to have a share of
// files: for the container's own, and those of a pod that will come.
func (c *Container) wantsShare() bool {
	return c.plan.NeedsShare() || virtcontainers.RoleOf(c.spec.Annotations) != virtcontainers.Alone
}

// checkShare refuses a container that needs a share in a machine that has none. Only
// one that joins a container of no pod, by an annotation of its own, can be such.
func (s *Sandbox) checkShare(c *Container) error {
	if s.guest == nil || s.guest.share || !c.plan.NeedsShare() {
		return nil
	}
	return fmt.Errorf("container %s needs a share of files, as for %s, and the machine of sandbox %s was started without, "+
		"because its first container needed none: create this one first, or set rootfs.by to %q: %w",
		c.id, c.plan.Mounts[0].Source, s.opts.ID, config.RootfsShare, errdefs.ErrFailedPrecondition)
}

// hasNoShare says that the machine is there, and was started without a share.
func (s *Sandbox) hasNoShare() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.guest != nil && !s.guest.share
}

// forget takes a container out, and reports whether it was still there.
func (s *Sandbox) forget(c *Container) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.containers[c.id] != c {
		return false
	}
	delete(s.containers, c.id)
	return true
}
