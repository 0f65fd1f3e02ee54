package virtcontainers

import (
	"fmt"
	"path"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// planResources places the container's cgroup in the guest and drops the limits
// that speak of the host's devices and processors. The place that it names on the
// host is the machine's.
func (p *Plan) planResources(at Placement) error {
	if at.First {
		p.Pod.Cgroup = p.Guest.Linux.CgroupsPath
	}
	p.Guest.Linux.CgroupsPath = path.Join("/hyper", at.ID)
	if r := p.Guest.Linux.Resources; r != nil {
		notes, err := GuestResources(r, at.Role)
		if err != nil {
			return err
		}
		p.Notes = append(p.Notes, notes...)
	}
	return nil
}

// GuestResources takes out of r what makes sense on the host alone, or puts it as the
// guest understands it, and returns a note for each thing taken. A set of processors
// that is none is an errdefs.ErrInvalidArgument.
func GuestResources(r *specs.LinuxResources, role Role) (notes []string, err error) {
	drop := func(what string) {
		notes = append(notes, what+" speaks of the host's hardware: not applied in the guest")
	}
	if r.CPU != nil {
		if r.CPU.Cpus, err = guestCPUSet(r.CPU.Cpus, role); err != nil {
			return nil, err
		}
		if r.CPU.Mems != "" {
			drop("linux.resources.cpu.mems")
			r.CPU.Mems = ""
		}
	}
	notes = append(notes, guestBlockIO(r)...)
	notes = append(notes, notesOnHugePages(r)...)
	if r.Rdma != nil {
		drop("linux.resources.rdma")
		r.Rdma = nil
	}
	// Class and priorities are of cgroup v1, which no guest has.
	if r.Network != nil {
		drop("linux.resources.network")
		r.Network = nil
	}
	return notes, nil
}

// guestBlockIO takes out what no guest does. Weights share the time of a disk between
// those who use it, and each container has disks of its own, or the share, which is none.
func guestBlockIO(r *specs.LinuxResources) (notes []string) {
	b := r.BlockIO
	if b == nil {
		return nil
	}
	if len(b.WeightDevice)+len(b.ThrottleReadBpsDevice)+len(b.ThrottleWriteBpsDevice)+
		len(b.ThrottleReadIOPSDevice)+len(b.ThrottleWriteIOPSDevice) > 0 {
		notes = append(notes, "a device's limit in linux.resources.blockIO speaks of the host's hardware: not applied in the guest")
	}
	if b.Weight != nil || b.LeafWeight != nil {
		notes = append(notes, "linux.resources.blockIO.weight: not applied, because the containers of a guest do not share a disk")
	}
	r.BlockIO = nil
	return notes
}

// notesOnHugePages says of huge pages that a container may use that there are none, unless
// somebody in the guest sets some aside.
func notesOnHugePages(r *specs.LinuxResources) (notes []string) {
	for _, h := range r.HugepageLimits {
		if h.Limit > 0 {
			notes = append(notes, fmt.Sprintf("linux.resources.hugepageLimits: the limit for pages of %s is the guest's, which sets none aside by itself (vm.nr_hugepages)", h.Pagesize))
		}
	}
	return notes
}

// Size is how large a virtual machine is.
type Size struct {
	MemoryMiB uint64
	VCPUs     uint32
}

// The memory that the guest's kernel and agent have beside the containers' limits,
// so that a limit is what ends its container and not the guest's end of memory: so
// many MiB, and for what the kernel keeps of each page (64 bytes of 4096) one part
// in memoryPerPageMap.
const (
	guestReserveMiB  = 96
	memoryPerPageMap = 64
)

// guestReserve is what the guest needs beside limits of so many MiB.
func guestReserve(limits uint64) uint64 { return guestReserveMiB + limits/memoryPerPageMap }

// mostLimits is the sum of limits that a machine of so many MiB holds.
func mostLimits(size uint64) uint64 {
	rest := size - min(guestReserveMiB, size)
	return rest * memoryPerPageMap / (memoryPerPageMap + 1)
}

// unlimitedMemory is from where a memory limit means none; runtimes write the
// largest number that their kernel takes.
const unlimitedMemory = int64(1) << 60

// SizeFor is base, raised to hold the limits of containers together; one that has
// no limit counts nothing. Limits that most cannot hold are an
// errdefs.ErrInvalidArgument that says which would.
func SizeFor(base, most Size, limits ...*specs.LinuxResources) (Size, error) {
	size := base
	var memory uint64
	for _, r := range limits {
		memory += memoryLimitMiB(r)
	}
	if memory > 0 {
		size.MemoryMiB = max(size.MemoryMiB, memory+guestReserve(memory))
		if size.MemoryMiB > most.MemoryMiB {
			return Size{}, fmt.Errorf("a memory limit of %d MiB%s does not fit a virtual machine of at most %d MiB, of which the guest needs %d: "+
				"lower it to %d MiB, or raise sandbox.max_memory_mib: %w",
				memory, inAll(limits), most.MemoryMiB, guestReserve(memory), mostLimits(most.MemoryMiB), errdefs.ErrInvalidArgument)
		}
	}
	size.VCPUs = max(size.VCPUs, uint32(min(wholeCPUs(limits), uint64(most.VCPUs))))
	return size, nil
}

// inAll says of a limit in a message that it is that of several containers.
func inAll(limits []*specs.LinuxResources) string {
	if len(limits) < 2 {
		return ""
	}
	return fmt.Sprintf(", in all of the pod's %d containers,", len(limits))
}

// memoryLimitMiB is a container's memory limit, 0 if it has none.
func memoryLimitMiB(r *specs.LinuxResources) uint64 {
	if r == nil || r.Memory == nil || r.Memory.Limit == nil || *r.Memory.Limit <= 0 || *r.Memory.Limit >= unlimitedMemory {
		return 0
	}
	return (uint64(*r.Memory.Limit) + 1<<20 - 1) >> 20
}

// ChangedLimits are the limits that size a machine after an update: those of
// update, and those of now where it has none.
func ChangedLimits(now, update *specs.LinuxResources) *specs.LinuxResources {
	changed := &specs.LinuxResources{}
	for _, r := range []*specs.LinuxResources{now, update} {
		if r == nil {
			continue
		}
		if r.Memory != nil && r.Memory.Limit != nil {
			changed.Memory = &specs.LinuxMemory{Limit: r.Memory.Limit}
		}
		changed.CPU = changedCPU(changed.CPU, r.CPU)
	}
	return changed
}
