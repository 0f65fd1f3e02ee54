// Command hyper-agent is PID 1 of Hyper's guest.
package main

import (
	"fmt"
	"os"
	"runtime"

	"github.com/hyperhq/hyper/agent"
	_ "github.com/hyperhq/hyper/agent/reexec"
)

func init() {
	// The main goroutine stays on the main thread, to which the kernel gives
	// the guest's orphans.
	runtime.LockOSThread()
}

func main() {
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "hyper-agent is the first process of a Hyper guest and runs nowhere else; see docs/")
		os.Exit(2)
	}
	agent.Main()
}
