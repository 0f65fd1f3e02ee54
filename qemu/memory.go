package qemu

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/errdefs"

	"github.com/hyperhq/hyper/qemu/qmp"
	"github.com/hyperhq/hyper/virtcontainers"
)

const (
	// balloonDevice and growthDevice are the names of the devices that let memory
	// come and go.
	balloonDevice = "balloon"
	growthDevice  = "growth"
	// growthBackend is the memory of the latter.
	growthBackend = "more"
	// growthBlockMiB is the unit in which memory is added: the largest in which a
	// guest's kernel hands out its own.
	growthBlockMiB = 4
	// maxGrowthMiB bounds what can be added: emulated processors have 40 bits of
	// physical address.
	maxGrowthMiB = 512 << 10
	// lookInterval is how often a growing machine is looked at: QEMU tells of a
	// change at most once a second.
	lookInterval = 20 * time.Millisecond
)

// growthMiB is how much memory can be added to the machine while it runs.
func (p platform) growthMiB(spec virtcontainers.VMSpec) uint64 {
	if !p.hotplug() || spec.MaxMemoryMiB <= spec.MemoryMiB {
		return 0
	}
	return min(spec.MaxMemoryMiB-spec.MemoryMiB, maxGrowthMiB) / growthBlockMiB * growthBlockMiB
}

// memoryArgument is the size of the memory at the start, and how far it may grow.
func memoryArgument(spec virtcontainers.VMSpec, p platform) string {
	size := fmt.Sprintf("size=%dM", spec.MemoryMiB)
	if growth := p.growthMiB(spec); growth > 0 {
		size += fmt.Sprintf(",maxmem=%dM", spec.MemoryMiB+growth)
	}
	return size
}

// memoryDevices are the device by which the guest tells the host what memory it
// does not use, and the one that holds what is added later.
//
// The first gives pages back by making holes in what lies under the guest's memory.
// That is the machine's own here; where it is a file that machines share, this
// device must not be.
func memoryDevices(spec virtcontainers.VMSpec, p platform) []string {
	args := []string{"-device", p.device("virtio-balloon") + ",id=" + balloonDevice + ",free-page-reporting=on"}
	if growth := p.growthMiB(spec); growth > 0 {
		args = append(args,
			"-object", fmt.Sprintf("memory-backend-memfd,id=%s,size=%dM,share=on", growthBackend, growth),
			"-device", fmt.Sprintf("%s,id=%s,memdev=%s,block-size=%dM,requested-size=0",
				p.device("virtio-mem"), growthDevice, growthBackend, growthBlockMiB))
	}
	return args
}

// plugGrowth gives a clone what its memory grows by, which other machines have from
// the start. It may be called again when it has failed.
func (m *machine) plugGrowth(ctx context.Context) error {
	err := m.monitor.AddMemory(ctx, growthBackend, m.memory.growthMiB<<20)
	var refused *qmp.Error
	if err != nil && !errors.As(err, &refused) { // refused: it is there from the last time
		return err
	}
	return m.plugForGood(ctx, growthDevice, plugged{
		Driver: "virtio-mem-pci", ID: growthDevice, MemDev: growthBackend, BlockSize: growthBlockMiB << 20,
	})
}

// growingGuest are the kernel arguments of a guest whose memory grows: it takes
// what is added into use by itself. And as all its devices reach all of its memory,
// it needs no bounce buffers, for which a kernel that is told of memory to come
// above 4 GiB sets 64 MiB aside.
func growingGuest() []string {
	return []string{"memhp_default_state=online", "swiotlb=noforce"}
}

// memory is that of one machine, and how far it can grow.
type memory struct {
	baseMiB, growthMiB uint64
	// own says that the guest's memory is this machine's alone; plugged that what it
	// grows by is there, which is of whose turn it is.
	own, plugged bool
	// turn has room for the one who resizes; asked, in MiB beyond the base, is of
	// whose turn it is.
	turn  chan struct{}
	asked uint64
}

func newMemory(spec virtcontainers.VMSpec, p platform) memory {
	return memory{
		baseMiB:   spec.MemoryMiB,
		growthMiB: p.growthMiB(spec),
		own:       p.role == boots || p.private,
		plugged:   p.role == boots,
		turn:      make(chan struct{}, 1),
	}
}

// ResizeMemory implements virtcontainers.VM.
func (m *machine) ResizeMemory(ctx context.Context, mib uint64) (uint64, error) {
	reached, err := m.resizeMemory(ctx, mib)
	if err != nil {
		return reached, fmt.Errorf("give VM %q %d MiB of memory: %w", m.id, mib, m.orGone(err))
	}
	return reached, nil
}

func (m *machine) resizeMemory(ctx context.Context, mib uint64) (uint64, error) {
	extra, err := m.memory.extra(mib)
	if err != nil || m.memory.growthMiB == 0 {
		return m.memory.baseMiB, err
	}
	select {
	case m.memory.turn <- struct{}{}:
		defer func() { <-m.memory.turn }()
	case <-ctx.Done():
		return 0, fmt.Errorf("wait for another who resizes it: %w", ctx.Err())
	}
	if extra > 0 && !m.memory.plugged {
		if err := m.plugGrowth(ctx); err != nil {
			return 0, err
		}
		m.memory.plugged = true
	}
	if extra != m.memory.asked {
		if err := m.monitor.RequestMemory(ctx, growthDevice, extra<<20); err != nil {
			return 0, err
		}
		m.memory.asked = extra
	}
	if !m.memory.plugged {
		return m.memory.baseMiB, nil
	}
	have, err := m.awaitMemory(ctx, extra)
	return m.memory.baseMiB + have, err
}

// extra is what must be added for a size, in whole blocks. Less than the base is
// the base.
func (y *memory) extra(mib uint64) (uint64, error) {
	if mib <= y.baseMiB {
		return 0, nil
	}
	extra := (mib - y.baseMiB + growthBlockMiB - 1) / growthBlockMiB * growthBlockMiB
	switch {
	case y.growthMiB == 0:
		return 0, fmt.Errorf("it keeps the %d MiB that it began with: %w", y.baseMiB, errdefs.ErrNotImplemented)
	case mib > y.baseMiB+y.growthMiB:
		return 0, fmt.Errorf("it grows to %d MiB at most: %w", y.baseMiB+y.growthMiB, errdefs.ErrResourceExhausted)
	}
	return min(extra, y.growthMiB), nil
}

// awaitMemory waits until the guest has so many MiB beyond the base, or more, and
// returns what it has.
func (m *machine) awaitMemory(ctx context.Context, extra uint64) (uint64, error) {
	look := time.NewTicker(lookInterval)
	defer look.Stop()
	have, err := m.memoryTaken(ctx)
	for err == nil && have < extra {
		select {
		case <-look.C:
		case <-m.proc.Done():
			return 0, errEnded
		case <-ctx.Done():
		}
		var now uint64
		if now, err = m.memoryTaken(ctx); err == nil {
			have = now
		} else if ctx.Err() != nil {
			return have, fmt.Errorf("the guest has %d MiB and takes no more: %w", m.memory.baseMiB+have, ctx.Err())
		}
	}
	return have, err
}

// memoryTaken is how much of what was added the guest uses, in MiB.
func (m *machine) memoryTaken(ctx context.Context) (uint64, error) {
	size, err := m.monitor.MemoryTaken(ctx, growthDevice)
	return size >> 20, err
}
