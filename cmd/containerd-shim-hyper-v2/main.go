// Command containerd-shim-hyper-v2 is the containerd runtime
// io.containerd.hyper.v2: containerd runs it, once to start a pod's server and
// once to clean up after each container; see package shim.
package main

import (
	"os"

	"github.com/hyperhq/hyper/shim"
)

func main() { os.Exit(shim.Main(os.Args[1:])) }
