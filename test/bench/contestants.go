package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/hyperhq/hyper/test/harness"
	"github.com/hyperhq/hyper/test/image"
)

// contestant is a runtime with a configuration, in a containerd of its own.
type contestant struct {
	name    string
	about   string
	runtime string
	// config are lines of Hyper's configuration.
	config string
	// settled is a field of the log's line of a start, such as "from=template", that
	// says that the runtime does what it does in the long run: it is started until
	// then before anything is measured. Empty for one that is settled at once.
	settled string
	// program is called by runc's shim in the place of runc, with arguments.
	program   string
	arguments []string
	// seconds are what a start takes where guests are emulated on two processors, for
	// telling how long the benchmark takes.
	seconds float64
	// most is with how many containers at once it is measured; 0 for any number.
	most int
	// only is the name of the group in which it is measured, if that is one alone.
	only string
	// waits has each start that is measured wait until a machine has been made ahead:
	// else it would be the pace of the benchmark that is measured.
	waits bool
	// optional contestants are left out, with a note, when they cannot be had or fail.
	optional bool

	cell *harness.Cell
}

// The names that promises are about: see figures.go. Those that are not among the
// contestants are not measured.
const (
	hyper = "hyper" // machines are clones
	cold  = "cold"  // every machine boots
	pool  = "pool"  // machines are made ahead
	runc  = "runc"
	bare  = "bare"  // the boot of a guest that does nothing, by bare arguments of QEMU
	least = "floor" // the same, by the best arguments that are known
)

// contestants are measured by turns, in this order. Another configuration of Hyper
// is a line here, or given with -with.
var contestants = []contestant{
	{name: hyper, about: "Hyper without a pool: machines are clones", runtime: harness.RuntimeHyper, config: "[pool]\nenable = false\n", settled: "from=template", seconds: 0.4},
	{name: pool, about: "Hyper with a pool, in which a machine waits for each start that is measured", runtime: harness.RuntimeHyper,
		config: "[pool]\nenable = true\nidle_seconds = 3600\n", settled: "from=pool", seconds: 2, only: "run", waits: true},
	{name: cold, about: "Hyper without templates: every machine boots", runtime: harness.RuntimeHyper, config: "[template]\nenable = false\n[pool]\nenable = false\n", seconds: 1.3, most: 10},
	{name: runc, about: "containers without a machine", runtime: harness.RuntimeRunc, seconds: 0.15},
	// Debian has no shim of gVisor's, and runc's serves it: Docker runs gVisor so.
	{name: "runsc", about: "gVisor by runc's shim, if the host has it (Debian: apt-get install runsc)", runtime: harness.RuntimeRunc, seconds: 0.4,
		program: "runsc", arguments: []string{"--platform=ptrace", "--network=none"}, optional: true},
}

// find is why a contestant cannot be had on this host, or nil.
func (c *contestant) find() error {
	if c.program == "" {
		return nil
	}
	if _, err := exec.LookPath(c.program); err != nil {
		return fmt.Errorf("%s is not installed, or not on the PATH", c.program)
	}
	return nil
}

// open starts the contestant's containerd.
func (c *contestant) open(ctx context.Context, b *bench, img *image.Image, reaper *harness.Reaper) error {
	cell, err := harness.NewCell(ctx, harness.CellOptions{
		Parts: b.parts, Containerd: b.parts.Newest(), Kernel: b.parts.Kernels[0], Runtime: c.runtime, Image: img, Reaper: reaper,
	})
	if err != nil {
		return err
	}
	c.cell = cell
	if c.program != "" {
		return c.wrap(b.work)
	}
	// A hundred emulated guests that boot at once take their time.
	if err := cell.DropIn("80-bench.toml", "[sandbox]\nboot_timeout = \"10m\"\n"); err != nil {
		return err
	}
	return cell.DropIn("90-contestant.toml", c.config)
}

// wrap makes runc's shim call the contestant's program with its arguments.
func (c *contestant) wrap(dir string) error {
	program, err := exec.LookPath(c.program)
	if err != nil {
		return err
	}
	script := fmt.Sprintf("#!/bin/sh\nexec %s %s \"$@\"\n", program, strings.Join(c.arguments, " "))
	if err := os.WriteFile(c.wrapper(dir), []byte(script), 0o755); err != nil {
		return fmt.Errorf("writing a wrapper of %s: %w", c.program, err)
	}
	return c.cell.UseOCIRuntime(c.wrapper(dir))
}

func (c *contestant) wrapper(dir string) string { return filepath.Join(dir, c.name) }

// ctrRun is the command of a container that runs args and goes.
func (c *contestant) ctrRun(ctx context.Context, dir string, args ...string) (*exec.Cmd, error) {
	id, err := c.cell.NewID()
	if err != nil {
		return nil, err
	}
	run := []string{"run", "--rm", "--runtime", c.runtime}
	if c.program != "" {
		run = append(run, "--runc-binary", c.wrapper(dir))
	}
	return c.cell.CtrCommand(ctx, append(append(run, image.Name, id), args...)...), nil
}

// isIn says whether the contestant is measured in a group.
func (c *contestant) isIn(group string) bool { return c.only == "" || c.only == group }

// joins says whether the contestant is measured with so many containers at once.
func (c *contestant) joins(containers int) bool { return c.most == 0 || containers <= c.most }

// isHyper says whether the contestant's log has starts of machines.
func (c *contestant) isHyper() bool { return c.runtime == harness.RuntimeHyper }
