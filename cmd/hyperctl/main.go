// Command hyperctl is the operator's view of the sandboxes of a host; see package
// hyperctl.
package main

import (
	"os"

	"github.com/hyperhq/hyper/hyperctl"
)

func main() { os.Exit(hyperctl.Main(os.Args, os.Stdout, os.Stderr)) }
