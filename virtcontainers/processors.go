package virtcontainers

import (
	"cmp"
	"fmt"
	"math/bits"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
)

const (
	// maxCPUs bounds the numbers in a set of processors.
	maxCPUs = 1 << 13
	// sharesPerCPU are the cpu.shares that stand for one processor.
	sharesPerCPU = 1024
	// usualRoom is how many processors a machine can have that began with no more than
	// half of that, if its host has as many. Each costs every boot and every clone a
	// little: see docs/decisions/vcpus-follow-the-pod.md.
	usualRoom = 8
)

// RoomFor is how many processors a machine is to be able to have that needs so many at
// first, of most: twice as many, in powers of two so that machines of different sizes
// go on where one template was saved.
func RoomFor(count, most uint32) uint32 {
	room := max(usualRoom, uint64(1)<<bits.Len32(2*count-1))
	return uint32(max(min(room, uint64(most)), uint64(count)))
}

// wholeCPUs is how many processors the containers' limits fill together.
func wholeCPUs(limits []*specs.LinuxResources) uint64 {
	var sum uint64
	for _, r := range limits {
		if r != nil && r.CPU != nil {
			sum += milliCPUs(r.CPU)
		}
	}
	return (sum + 999) / 1000
}

// milliCPUs is how many thousandths of a processor a container may use, 0 if it has no
// limit. Beside a quota, a set of processors is one. But who has fewer shares than its
// set has processors shares these with others: kubelet gives to containers without a
// limit the set of all that are left over.
func milliCPUs(c *specs.LinuxCPU) uint64 {
	set, err := countCPUs(c.Cpus)
	if err != nil {
		set = 0 // it is refused where it would be applied
	}
	milli := set * 1000
	if milli > 0 && c.Shares != nil && *c.Shares > 0 {
		milli = min(milli, min(*c.Shares, maxCPUs*sharesPerCPU)*1000/sharesPerCPU)
	}
	if quota := milliQuota(c); quota > 0 && set > 0 {
		return min(quota, set*1000)
	} else if quota > 0 {
		return quota
	}
	return milli
}

// milliQuota is a quota in thousandths of a processor, 0 if there is none. What is less
// is left out, or three thirds would be more than a whole.
func milliQuota(c *specs.LinuxCPU) uint64 {
	if c.Quota == nil || c.Period == nil || *c.Quota <= 0 || *c.Period == 0 {
		return 0
	}
	high, low := bits.Mul64(uint64(*c.Quota), 1000)
	if high >= *c.Period {
		return maxCPUs * 1000
	}
	milli, _ := bits.Div64(high, low, *c.Period)
	return min(milli, maxCPUs*1000)
}

// changedCPU is what of now stays, and what of update is set.
func changedCPU(now, update *specs.LinuxCPU) *specs.LinuxCPU {
	if update == nil {
		return now
	}
	changed := specs.LinuxCPU{Quota: update.Quota, Period: update.Period, Cpus: update.Cpus, Shares: update.Shares}
	if now != nil {
		if changed.Quota == nil {
			changed.Quota, changed.Period = now.Quota, now.Period
		}
		changed.Cpus = cmp.Or(changed.Cpus, now.Cpus)
		changed.Shares = cmp.Or(changed.Shares, now.Shares)
	}
	return &changed
}

// guestCPUSet is what a set of the host's processors is in the guest: as many, from the
// first on, since the host's numbers mean nothing there. The containers of a pod are not
// confined to any: kubelet gives them sets that do not overlap, and these would.
func guestCPUSet(cpus string, role Role) (string, error) {
	count, err := countCPUs(cpus)
	if err != nil || count == 0 || role != Alone {
		return "", err
	}
	if count == 1 {
		return "0", nil
	}
	return fmt.Sprintf("0-%d", count-1), nil
}

// countCPUs is how many processors are in a list as of cpuset(7), such as "0-2,5".
func countCPUs(list string) (uint64, error) {
	if list == "" {
		return 0, nil
	}
	seen := make(map[uint64]bool)
	for part := range strings.SplitSeq(list, ",") {
		from, to, isRange := strings.Cut(strings.TrimSpace(part), "-")
		first, err := strconv.ParseUint(from, 10, 32)
		last := first
		if err == nil && isRange {
			last, err = strconv.ParseUint(to, 10, 32)
		}
		if err != nil || last < first || last >= maxCPUs {
			return 0, fmt.Errorf("linux.resources.cpu.cpus is %.64q, want a list of processors such as 0-2,5: %w", list, errdefs.ErrInvalidArgument)
		}
		for cpu := first; cpu <= last; cpu++ {
			seen[cpu] = true
		}
	}
	return uint64(len(seen)), nil
}
