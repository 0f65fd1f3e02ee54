package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"github.com/hyperhq/hyper/test/harness"
)

// shims measures the shim by itself: the memory of one that has just started its
// container, and the processor's time that its program takes before it does
// anything, which is spent three times for each container.
func (b *bench) shims(ctx context.Context, n, executions int) error {
	programs := make([]string, len(b.contestants))
	memory := b.series("memory of a new shim (PSS)", "MB")
	for range n {
		for j, c := range b.contestants {
			// One at a time: shims share the pages of their program.
			err := run(ctx, func(s *script) {
				task := c.cell.Container(s, harness.Args("sleep", "100000")).Create(s, harness.IO{})
				task.Start(s)
				shim := c.shim(s, task)
				programs[j] = shim.Exe
				memory[j].add(pss(s, shim.PID))
			})
			if err != nil {
				return err
			}
		}
	}
	b.report.add(memory[0], memory[1])

	spent := b.series("processor time of the shim's -v", "ms")
	for range executions {
		for j, c := range b.contestants {
			cmd := exec.CommandContext(ctx, programs[j], "-v")
			if err := c.cell.RunCommand(cmd); err != nil {
				return fmt.Errorf("%s -v: %w", programs[j], err)
			}
			spent[j].add(milliseconds(cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()))
		}
	}
	b.report.add(spent[0], spent[1])
	return nil
}

// shim is that of a task.
func (c contestant) shim(s *script, task *harness.Task) harness.Process {
	p, ok := c.cell.Shim(task.Container.ID)
	if !ok {
		s.Fatalf("no shim of %s", task.Container.ID)
	}
	return p
}

// pss is a process's share of the memory that it uses, in MB.
func pss(s *script, pid int) float64 {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		s.Fatalf("%v", err)
	}
	for line := range strings.Lines(string(data)) {
		var kib float64
		if _, err := fmt.Sscanf(line, "Pss: %g kB", &kib); err == nil {
			return kib * 1024 / 1e6
		}
	}
	s.Fatalf("no Pss of the process %d", pid)
	return 0
}
