package qemu

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/hyperhq/hyper/virtcontainers"
)

const (
	// minMemoryMiB is the least memory in which a guest boots.
	minMemoryMiB = 64
	// maxVCPUs is what QEMU's q35 takes without further measures.
	maxVCPUs = 255
	// maxKernelArgs bounds the kernel arguments of a spec, in bytes: the kernel cuts
	// its command line at 2048, and the driver's own are well under 512.
	maxKernelArgs = 1536
	// maxTag is the room for a share's name in the virtio-fs device, in bytes.
	maxTag = 36
)

// checkSpec refuses a machine that cannot be, before anything is made for it.
func checkSpec(spec virtcontainers.VMSpec) error {
	invalid := func(format string, args ...any) error {
		return fmt.Errorf("VM %q: %s: %w", spec.ID, fmt.Sprintf(format, args...), errdefs.ErrInvalidArgument)
	}
	switch {
	case spec.ID == "" || len(spec.ID) > 128 || !graphic(spec.ID):
		return invalid("an id is 1 to 128 printable characters without a space")
	case spec.VCPUs < 1 || processors(spec) > maxVCPUs:
		return invalid("%d virtual CPUs, and %d at most: use 1 to %d", spec.VCPUs, processors(spec), maxVCPUs)
	case spec.MemoryMiB < minMemoryMiB:
		return invalid("%d MiB of memory is too little: use at least %d", spec.MemoryMiB, minMemoryMiB)
	}
	for _, arg := range spec.KernelArgs {
		if arg == "" || !graphic(arg) {
			return invalid("kernel argument %q is not printable ASCII without a space", arg)
		}
	}
	if n := len(strings.Join(spec.KernelArgs, " ")); n > maxKernelArgs {
		return invalid("%d bytes of kernel arguments: use at most %d", n, maxKernelArgs)
	}
	if err := checkPlaces(spec.Places); err != nil {
		return fmt.Errorf("VM %q: %w", spec.ID, err)
	}
	if s := spec.Share; s != nil {
		if s.Tag == "" || len(s.Tag) > maxTag || !graphic(s.Tag) {
			return invalid("share tag %q: use 1 to %d printable characters without a space", s.Tag, maxTag)
		}
		if s.Socket == nil {
			return invalid("share %q has no socket", s.Tag)
		}
	}
	return nil
}

// graphic says that s is printable ASCII without a space.
func graphic(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' })
}

// checkHostMemory refuses a machine that is larger than its host: QEMU would
// start, and be killed when the guest uses it.
func checkHostMemory(spec virtcontainers.VMSpec, meminfo io.Reader) error {
	lines := bufio.NewScanner(meminfo)
	for lines.Scan() {
		var kib uint64
		if _, err := fmt.Sscanf(lines.Text(), "MemTotal: %d kB", &kib); err != nil {
			continue
		}
		if host := kib >> 10; spec.MemoryMiB > host {
			return fmt.Errorf("VM %q: %d MiB of memory is more than the host's %d MiB: ask for less: %w",
				spec.ID, spec.MemoryMiB, host, errdefs.ErrResourceExhausted)
		}
		return nil
	}
	return nil // the host does not say
}

func checkThisHostsMemory(spec virtcontainers.VMSpec) error {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return fmt.Errorf("VM %q: read the host's memory size: %w", spec.ID, err)
	}
	defer f.Close()
	return checkHostMemory(spec, f)
}
