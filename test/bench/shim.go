package main

import (
	"context"
	"fmt"
	"os/exec"
	"time"

	"github.com/hyperhq/hyper/test/bench/report"
	"github.com/hyperhq/hyper/test/harness"
)

var (
	shimNew    = report.Quantity{Name: "ShimNewPSS", Title: "PSS of a new shim, alone", Unit: "MB"}
	shimWorked = report.Quantity{Name: "ShimWorkedPSS", Title: "PSS of a shim that has served a group of execs or of output", Unit: "MB"}
	shimCPU    = report.Quantity{Name: "ShimVersionCPU", Title: "processor time of the shim's `-v`", Unit: "ms"}
)

func shimRounds(o *options) int { return max(o.n/3, 1) }

func shimTakes(o *options) time.Duration {
	return time.Duration(shimRounds(o)) * o.starts(500*time.Millisecond)
}

// measureShim measures the shim by itself: the memory of one that has just started
// its container, and the processor's time that its program takes before it does
// anything, which is spent three times for each container.
func measureShim(ctx context.Context, b *bench) error {
	return b.byTurns(ctx, "shim", shimRounds(b.options), func(ctx context.Context, c *contestant) error {
		return run(ctx, func(s *script) {
			// One at a time: shims share the pages of their program.
			task := c.cell.Container(s, sleeps).Create(s, harness.IO{})
			task.Start(s)
			shim := c.shim(s, task)
			b.report.Of(shimNew, c.name, 0).Add(c.shimMemory(s, task))
			for range 10 {
				spent, err := c.versionCPU(ctx, shim.Exe)
				if err != nil {
					s.Fatalf("%w", err)
				}
				b.report.Of(shimCPU, c.name, 0).Add(milliseconds(spent))
			}
		})
	})
}

// versionCPU is the processor's time that a shim takes to say its version.
func (c *contestant) versionCPU(ctx context.Context, program string) (time.Duration, error) {
	cmd := exec.CommandContext(ctx, program, "-v")
	if err := c.cell.RunCommand(cmd); err != nil {
		return 0, fmt.Errorf("%s -v: %w", program, err)
	}
	return cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime(), nil
}

// shim is that of a task.
func (c *contestant) shim(s *script, task *harness.Task) harness.Process {
	p, ok := c.cell.Shim(task.Container.ID)
	if !ok {
		s.Fatalf("no shim of %s", task.Container.ID)
	}
	return p
}

// shimMemory is the share of a task's shim of the memory that it uses, in MB.
func (c *contestant) shimMemory(s *script, task *harness.Task) float64 {
	mb, err := proportional(c.shim(s, task).PID)
	if err != nil {
		s.Fatalf("the memory of the shim of %s: %w", task.Container.ID, err)
	}
	return mb
}
