package factory

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/log"

	"github.com/hyperhq/hyper/config"
	"github.com/hyperhq/hyper/qemu"
	"github.com/hyperhq/hyper/qemu/virtiofsd"
	"github.com/hyperhq/hyper/virtcontainers"
)

// Spec says what machine a sandbox needs.
type Spec struct {
	// ID is the sandbox's.
	ID string
	// Dir is a private directory for the machine's files while it lives.
	Dir  string
	Size virtcontainers.Size
	// MaxMemoryMiB is how far its memory may grow while it runs.
	MaxMemoryMiB uint64
	// MaxVCPUs is how many processors its guest may take into use while it runs.
	MaxVCPUs uint32
	// ShareDir is the directory of the host that the guest sees as a virtio-fs
	// device with tag ShareTag; empty if it needs none.
	ShareTag, ShareDir string
	// NetNS is the path of the network namespace of the machine's process; empty
	// is a new one.
	NetNS string
	// Debug makes the guest's agent log more.
	Debug bool
}

// Cold makes each machine by booting it.
type Cold struct {
	config     *config.Config
	hypervisor virtcontainers.Cloner
}

// NewCold makes a factory that boots machines as c says.
func NewCold(c *config.Config) (*Cold, error) {
	driver, err := qemu.New(qemu.Config{
		Path:     c.QEMU.Path,
		Machine:  c.QEMU.Machine,
		Accel:    c.QEMU.Accel,
		Firmware: c.QEMU.Firmware,
		Files:    c.QEMU.Files,
		UIDBase:  c.QEMU.UIDBase,

		TranslatedMiB: c.QEMU.TranslatedMiB,
	}, log.L)
	if err != nil {
		return nil, err
	}
	return &Cold{config: c, hypervisor: driver}, nil
}

// Make starts a machine and returns once its processes run; the guest then
// boots. When it fails nothing is left behind.
func (f *Cold) Make(ctx context.Context, spec Spec) (*Machine, error) {
	vm, err := f.vmSpec(spec)
	if err != nil {
		return nil, err
	}
	return f.withShare(ctx, spec, vm, f.hypervisor.Start)
}

// withShare starts a machine by start, and before that the daemon that serves its
// share, if it has one.
func (f *Cold) withShare(ctx context.Context, spec Spec, vm virtcontainers.VMSpec,
	start func(context.Context, virtcontainers.VMSpec) (virtcontainers.VM, error)) (*Machine, error) {
	if spec.ShareDir == "" {
		machine, err := start(ctx, vm)
		if err != nil {
			return nil, err
		}
		return newMachine(machine, nil, nil), nil
	}
	share, err := virtiofsd.Start(ctx, virtiofsd.Config{
		Path:      f.config.Virtiofsd.Path,
		Cache:     f.config.Virtiofsd.Cache,
		Dir:       spec.ShareDir,
		SocketDir: spec.Dir,
	})
	if err != nil {
		return nil, fmt.Errorf("sharing files with the guest: %w", err)
	}
	// The driver hands its own copy of the socket on.
	defer share.Socket.Close()
	vm.Share = &virtcontainers.Share{Tag: spec.ShareTag, Socket: share.Socket}
	machine, err := start(ctx, vm)
	if err != nil {
		return nil, errors.Join(err, share.Kill(context.WithoutCancel(ctx)))
	}
	return newMachine(machine, share, nil), nil
}

// vmSpec is the machine of a spec, but for its share.
func (f *Cold) vmSpec(spec Spec) (virtcontainers.VMSpec, error) {
	kernel, image, err := f.config.GuestFiles()
	if err != nil {
		return virtcontainers.VMSpec{}, err
	}
	return virtcontainers.VMSpec{
		ID:           spec.ID,
		Dir:          spec.Dir,
		VCPUs:        spec.Size.VCPUs,
		MaxVCPUs:     spec.MaxVCPUs,
		MemoryMiB:    spec.Size.MemoryMiB,
		MaxMemoryMiB: spec.MaxMemoryMiB,
		Kernel:       kernel,
		Image:        image,
		KernelArgs:   f.kernelArgs(spec),
		NetNS:        spec.NetNS,
	}, nil
}

func (f *Cold) kernelArgs(spec Spec) []string {
	// A kernel with the dummy driver built in would have an interface of it in the
	// pod's network.
	args := []string{"dummy.numdummies=0"}
	if spec.Debug {
		args = append(args, "hyper.log=debug")
	}
	return append(args, f.config.Guest.KernelArgs...)
}
