package reexec

import (
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// endedBy are the signals that a process is told to end by, and that Go's runtime
// catches to do what the kernel would have done.
var endedBy = [...]unix.Signal{
	unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2, unix.SIGALRM, unix.SIGTERM,
	unix.SIGVTALRM, unix.SIGXCPU, unix.SIGXFSZ, unix.SIGIO, unix.SIGPWR,
}

// endBySignals leaves these signals to the kernel. The thread that Go catches one on may
// not come to raise it again: as soon as another thread executes the program, it is gone.
// Whoever has started an exec, and signals it at once, would wait for its end for ever.
func endBySignals() error {
	// The kernel's struct sigaction: the default action, no flags, an empty mask.
	var action struct{ handler, flags, restorer, mask uintptr }
	for _, signal := range endedBy {
		_, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION,
			uintptr(signal), uintptr(unsafe.Pointer(&action)), 0, unsafe.Sizeof(action.mask), 0, 0)
		if errno != 0 {
			return fmt.Errorf("leaving %s to the kernel: %w", signal, errno)
		}
	}
	return nil
}

// isExec says whether this process is to become one beside a container's init.
func isExec() bool { return os.Getenv("_LIBCONTAINER_INITTYPE") == "setns" }
