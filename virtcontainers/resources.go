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
		p.Notes = append(p.Notes, GuestResources(r)...)
	}
	return nil
}

// GuestResources takes out of r what makes sense on the host alone, and returns
// a note for each thing taken.
func GuestResources(r *specs.LinuxResources) (notes []string) {
	drop := func(what string) {
		notes = append(notes, what+" speaks of the host's hardware: not applied in the guest")
	}
	if r.CPU != nil && (r.CPU.Cpus != "" || r.CPU.Mems != "") {
		drop("linux.resources.cpu.cpus/mems")
		r.CPU.Cpus, r.CPU.Mems = "", ""
	}
	if b := r.BlockIO; b != nil && (len(b.WeightDevice)+len(b.ThrottleReadBpsDevice)+len(b.ThrottleWriteBpsDevice)+
		len(b.ThrottleReadIOPSDevice)+len(b.ThrottleWriteIOPSDevice) > 0) {
		drop("a device's limit in linux.resources.blockIO")
		r.BlockIO = &specs.LinuxBlockIO{Weight: b.Weight, LeafWeight: b.LeafWeight}
	}
	if r.Rdma != nil {
		drop("linux.resources.rdma")
		r.Rdma = nil
	}
	// Class and priorities are of cgroup v1, which no guest has.
	if r.Network != nil {
		drop("linux.resources.network")
		r.Network = nil
	}
	return notes
}

// Size is how large a virtual machine is.
type Size struct {
	MemoryMiB uint64
	VCPUs     uint32
}

// guestReserveMiB is the memory in MiB that the guest's kernel and agent have
// beside a container's limit, so that the limit is what ends the container and
// not the guest's end of memory.
const guestReserveMiB = 96

// unlimitedMemory is from where a memory limit means none; runtimes write the
// largest number that their kernel takes.
const unlimitedMemory = int64(1) << 60

// SizeFor is base, raised to hold the container's limits. A limit that most
// cannot hold is an errdefs.ErrInvalidArgument that says which would.
func SizeFor(base, most Size, r *specs.LinuxResources) (Size, error) {
	size := base
	if r == nil {
		return size, nil
	}
	if m := r.Memory; m != nil && m.Limit != nil && *m.Limit > 0 && *m.Limit < unlimitedMemory {
		limit := (uint64(*m.Limit) + 1<<20 - 1) >> 20
		if need := limit + guestReserveMiB; need > size.MemoryMiB {
			size.MemoryMiB = need
		}
		if size.MemoryMiB > most.MemoryMiB {
			return Size{}, fmt.Errorf("a memory limit of %d MiB does not fit a virtual machine of at most %d MiB, of which the guest needs %d: "+
				"lower the limit to %d MiB, or raise sandbox.max_memory_mib: %w",
				limit, most.MemoryMiB, guestReserveMiB, most.MemoryMiB-min(guestReserveMiB, most.MemoryMiB), errdefs.ErrInvalidArgument)
		}
	}
	if c := r.CPU; c != nil && c.Quota != nil && c.Period != nil && *c.Quota > 0 && *c.Period > 0 {
		cpus := (uint64(*c.Quota) + *c.Period - 1) / *c.Period
		size.VCPUs = max(size.VCPUs, uint32(min(cpus, uint64(most.VCPUs))))
	}
	return size, nil
}
