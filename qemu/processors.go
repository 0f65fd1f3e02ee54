package qemu

import (
	"strconv"

	"github.com/hyperhq/hyper/virtcontainers"
)

// guestHZ is how often the timer of the guests' kernels ticks, each second. In a kernel
// that ticks more often short delays are longer than they need be.
const guestHZ = 250

// processors is how many virtual CPUs the machine has, the idle ones among them.
func processors(spec virtcontainers.VMSpec) uint32 { return max(spec.VCPUs, spec.MaxVCPUs) }

// processorArguments are the kernel arguments of a guest that has more than one
// processor. It starts those that it begins with, and others when its agent says so:
// to the machine they are all there from the start, so that nothing is plugged in.
func processorArguments(spec virtcontainers.VMSpec, p platform) []string {
	var args []string
	if processors(spec) > spec.VCPUs {
		args = append(args, "maxcpus="+strconv.FormatUint(uint64(spec.VCPUs), 10))
	}
	if processors(spec) > 1 && !p.kvm && p.tscKHz != 0 {
		// Or each processor that is started counts for several ticks how fast it is,
		// while another waits for it: forty times what else there is to do.
		args = append(args, "lpj="+strconv.FormatUint(p.tscKHz*1000/guestHZ, 10))
	}
	return args
}
