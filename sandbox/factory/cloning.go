package factory

import (
	"context"
	"errors"
	"os"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"

	"github.com/hyperhq/hyper/config"
	"github.com/hyperhq/hyper/sandbox/factory/template"
	"github.com/hyperhq/hyper/virtcontainers"
)

// Kind is what the machines that start from one template have in common, beside the
// configuration.
type Kind struct {
	Size         virtcontainers.Size
	MaxMemoryMiB uint64
	MaxVCPUs     uint32
	Shared       bool // they have a share
	Debug        bool
}

// Cloning makes machines from templates, and by booting where there is none.
type Cloning struct {
	cold  *Cold
	store *template.Store
	// begin has a template built by somebody else, and does not wait for that.
	begin func(Kind) error
}

// NewCloning makes a factory of machines as c says. begin has the template of a kind
// built, by Build in a process that does not end with this one, and returns at once;
// nil if nobody is to build.
func NewCloning(c *config.Config, begin func(Kind) error) (*Cloning, error) {
	cold, err := NewCold(c)
	if err != nil {
		return nil, err
	}
	return &Cloning{cold: cold, store: storeOf(c), begin: begin}, nil
}

func storeOf(c *config.Config) *template.Store {
	return template.NewStore(c.Template.Directory, c.Template.MaxCount, c.Template.MaxMiB<<20)
}

// Make starts a machine and returns once its processes run. It goes on where a
// template was saved, or boots if there is none that is of use. When it fails nothing
// is left behind.
func (f *Cloning) Make(ctx context.Context, spec Spec) (*Machine, error) {
	kind := spec.kind()
	machine, key, err := f.clone(ctx, spec, kind)
	switch {
	case err == nil:
		return machine, nil
	case ctx.Err() != nil:
		return nil, err
	case errdefs.IsNotFound(err) && !errors.Is(err, template.ErrDamaged):
		log.L.WithField("template", key).Debug("no template yet: the machine boots")
	default:
		log.L.WithError(err).Warn("a template is of no use: the machine boots")
	}
	forbidden := errdefs.IsPermissionDenied(err) // a builder would not be allowed more
	machine, err = f.cold.Make(ctx, spec)
	if err == nil && key != "" && f.begin != nil && !forbidden {
		machine.afterwards = func(context.Context) error {
			if !f.store.Wanted(key) {
				return nil
			}
			return f.begin(kind)
		}
	}
	return machine, err
}

// Clone starts a machine from its template, as Make does, or not at all:
// errdefs.ErrNotFound if there is none. key is the template's.
func (f *Cloning) Clone(ctx context.Context, spec Spec) (_ *Machine, key string, err error) {
	return f.clone(ctx, spec, spec.kind())
}

// Key is what the template of a machine is stored by.
func (f *Cloning) Key(spec Spec) (string, error) { return f.cold.key(spec.kind()) }

// kind is what the machine has in common with its template.
func (s Spec) kind() Kind {
	return Kind{Size: s.Size, MaxMemoryMiB: s.MaxMemoryMiB, MaxVCPUs: s.MaxVCPUs, Shared: s.ShareDir != "", Debug: s.Debug}
}

// clone starts a machine from its template. key is the template's, once that is known.
func (f *Cloning) clone(ctx context.Context, spec Spec, kind Kind) (_ *Machine, key string, err error) {
	key, err = f.cold.key(kind)
	if err != nil {
		return nil, "", err
	}
	im, err := f.store.Open(key)
	if err != nil {
		return nil, key, err
	}
	defer im.Close()
	machine, err := f.cloneOf(ctx, spec, im)
	if err != nil {
		return nil, key, errors.Join(err, f.judge(ctx, im, err))
	}
	machine.Cloned = true
	machine.afterwards = machine.reclaimLater
	machine.disown = func(err error) error { return f.store.Discredit(im, err) }
	return machine, key, nil
}

// reclaimDelay is how long a clone is left alone until it is given the device by which
// it gives memory back: a guest that has just started has better to do, and one that is
// gone by then never had to.
const reclaimDelay = 3 * time.Second

func (m *Machine) reclaimLater(ctx context.Context) error {
	delay := time.NewTimer(reclaimDelay)
	defer delay.Stop()
	select {
	case <-delay.C:
	case <-ctx.Done():
		return ctx.Err()
	}
	if err := m.ReclaimMemory(ctx); !errdefs.IsNotImplemented(err) {
		return err
	}
	return nil // its memory is its template's
}

// judge removes a template of which no clone could be made, if that is its fault.
func (f *Cloning) judge(ctx context.Context, im *template.Image, err error) error {
	switch {
	case ctx.Err() != nil:
		return nil
	case errors.Is(err, template.ErrDamaged):
		return f.store.Drop(im)
	case errdefs.IsUnavailable(err):
		return f.store.Discredit(im, err)
	default:
		return nil
	}
}

func (f *Cloning) cloneOf(ctx context.Context, spec Spec, im *template.Image) (*Machine, error) {
	vm, err := f.cold.vmSpec(spec)
	if err != nil {
		return nil, err
	}
	vm.Places = f.cold.places(spec.ShareDir != "")
	state, err := im.State()
	if err != nil {
		return nil, err
	}
	defer state.Close()
	if spec.ShareDir == "" {
		return f.sharing(ctx, vm, im, state)
	}
	memory, err := template.NewMemory(im.MemorySize())
	if err != nil {
		return nil, err
	}
	defer memory.Close()
	saved := virtcontainers.Saved{
		State: state, Memory: memory, Private: true,
		Fill: func() error { return im.Fill(memory) },
	}
	return f.cold.withShare(ctx, spec, vm, func(ctx context.Context, vm virtcontainers.VMSpec) (virtcontainers.VM, error) {
		return f.cold.hypervisor.StartClone(ctx, vm, saved)
	})
}

// sharing starts a clone that has the memory in common with others, but for what it
// changes.
func (f *Cloning) sharing(ctx context.Context, vm virtcontainers.VMSpec, im *template.Image, state *os.File) (*Machine, error) {
	memory, err := f.store.Share(im)
	if err != nil {
		return nil, err
	}
	clone, err := f.cold.hypervisor.StartClone(ctx, vm, virtcontainers.Saved{State: state, Memory: memory.File})
	if err != nil {
		return nil, errors.Join(err, memory.Close())
	}
	// As long as the machine lives, so that others find it.
	return newMachine(clone, nil, memory), nil
}

// template is the machine that is saved for a kind.
func (f *Cold) template(kind Kind) (virtcontainers.VMSpec, error) {
	vm, err := f.vmSpec(Spec{ID: "template", Size: kind.Size, MaxMemoryMiB: kind.MaxMemoryMiB, MaxVCPUs: kind.MaxVCPUs, Debug: kind.Debug})
	vm.Shared = kind.Shared
	vm.Places = f.places(kind.Shared)
	return vm, err
}

// key is what the template of a kind is stored by.
func (f *Cold) key(kind Kind) (string, error) {
	vm, err := f.template(kind)
	if err != nil {
		return "", err
	}
	fingerprint, err := f.hypervisor.Fingerprint(vm)
	if err != nil {
		return "", err
	}
	return template.Key(fingerprint), nil
}
