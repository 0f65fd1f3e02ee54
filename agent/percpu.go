package agent

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// percpuValue is the most that the kernel lets a value have that each processor has for
// itself, in bytes. It is more than the kernel sets aside when it boots.
const percpuValue = 32 << 10

// makePercpuRoom has the kernel make another piece of the memory that each processor has
// for itself. What it sets aside when it boots suffices for no container; and it clears 2
// MiB for the piece, to note whose what of it is: in each clone, unless it is there before.
//
// Nothing of it is in use afterwards. The kernel keeps one piece of which that is so.
func makePercpuRoom() error {
	array := struct{ kind, keySize, valueSize, entries, flags uint32 }{
		unix.BPF_MAP_TYPE_PERCPU_ARRAY, 4, percpuValue, 1, 0,
	}
	fd, err := bpf(unix.BPF_MAP_CREATE, unsafe.Pointer(&array), unsafe.Sizeof(array))
	if err != nil {
		return fmt.Errorf("making room for what each processor has for itself: %w", err)
	}
	return unix.Close(fd)
}
