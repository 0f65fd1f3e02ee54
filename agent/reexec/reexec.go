// Package reexec is what a container's init process, and that of an exec, runs
// before it becomes the container's program. The agent executes itself for it.
//
// Importing the package does it all: its initialization takes over a process
// that was started as such an init, as early as a Go program can, and never
// returns there. It imports nothing that this does not need: a fork is worth
// no more initialization than that.
package reexec

import (
	"os"

	"github.com/opencontainers/runc/libcontainer"
	// Enters namespaces before the Go runtime starts its threads.
	_ "github.com/opencontainers/runc/libcontainer/nsenter"
)

func init() {
	if len(os.Args) > 1 && os.Args[1] == "init" && os.Getenv("_LIBCONTAINER_INITPIPE") != "" {
		libcontainer.Init()
	}
}
