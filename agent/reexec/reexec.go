// Package reexec is what a container's init process, and that of an exec, runs
// before it becomes the container's program. The agent executes itself for it.
//
// Importing the package does it all: its initialization takes over a process
// that was started as such an init, as early as a Go program can, and never
// returns there. It imports nothing that this does not need: a fork is worth
// no more initialization than that.
package reexec

import (
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/opencontainers/runc/libcontainer"
	// Enters namespaces before the Go runtime starts its threads.
	_ "github.com/opencontainers/runc/libcontainer/nsenter"
)

// Hold is the argument of a process that holds a PID namespace, as its init.
const Hold = "hold"

func init() {
	if len(os.Args) == 2 && os.Args[1] == Hold && os.Getpid() == 1 && os.Getppid() == 0 {
		hold()
	}
	if len(os.Args) == 2 && os.Args[1] == Spare && os.Getpid() == 1 && os.Getppid() == 0 {
		beOnTime()
		fmt.Fprintln(os.Stderr, "hyper-agent:", spare())
		os.Exit(1)
	}
	if len(os.Args) > 1 && os.Args[1] == "init" && os.Getenv("_LIBCONTAINER_INITPIPE") != "" {
		beOnTime()
		if isExec() {
			if err := endBySignals(); err != nil {
				fmt.Fprintln(os.Stderr, "hyper-agent:", err)
				os.Exit(1)
			}
		}
		libcontainer.Init()
	}
}

// hold reaps whoever becomes a child, for ever. No signal ends it but one that
// cannot be caught, which comes from outside the namespace alone.
func hold() {
	signals := make(chan os.Signal, 16)
	signal.Notify(signals)
	for {
		for {
			if pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); pid <= 0 && err != syscall.EINTR {
				break
			}
		}
		<-signals
	}
}
