// Command init is PID 1 of a host in a machine: it loads the kernel's modules, puts a
// root file system together and runs the commands that come by a serial port.
package main

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

func init() {
	// The kernel gives orphans to the main thread's process, and what the thread changes must stay.
	runtime.LockOSThread()
}

func main() {
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "this is the first process of a host in a machine: see test/host")
		os.Exit(2)
	}
	err := boot()
	if err == nil {
		err = serve()
	}
	fmt.Fprintln(os.Stderr, "init:", err)
	unix.Sync()
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}
