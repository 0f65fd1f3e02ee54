package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hyperhq/hyper/test/bench/report"
	"github.com/hyperhq/hyper/test/bench/stats"
	"github.com/hyperhq/hyper/test/harness"
)

var (
	memoryPSS   = report.Quantity{Name: "MemoryPSS", Title: "ΣPSS of all processes of the sandboxes", Unit: "MB"}
	memoryTaken = report.Quantity{Name: "MemoryTaken", Title: "memory no longer available, of the sandboxes", Unit: "MB"}
	slopePSS    = report.Quantity{Name: "SandboxPSS", Title: "each further sandbox, by ΣPSS", Unit: "MB"}
	slopeTaken  = report.Quantity{Name: "SandboxTaken", Title: "each further sandbox, by MemAvailable", Unit: "MB"}
	shimPSS     = report.Quantity{Name: "ShimPSS", Title: "PSS of a shim", Unit: "MB"}
)

// The memory is looked at with so many sandboxes at first, and after each so many
// more. Some time before each look guests give back what they have freed.
const (
	memoryBegin  = 4
	memoryStep   = 4
	memorySettle = 4 * time.Second
)

func memoryTakes(o *options) time.Duration {
	return each(o.deep, 2.2) + 3*time.Duration(o.deep/memoryStep)*memorySettle
}

// measureMemory starts sandboxes one after another. Contestants take no turns here:
// what is available belongs to all.
func measureMemory(ctx context.Context, b *bench) error {
	return b.byTurns(ctx, "memory", 1, func(ctx context.Context, c *contestant) error {
		return run(ctx, func(s *script) { b.grow(s, c) })
	})
}

// grow measures one contestant.
func (b *bench) grow(s *script, c *contestant) {
	before, err := availableMiB()
	if err != nil {
		s.Fatalf("%w", err)
	}
	var at, pss, taken []float64
	g := &guard{}
	for i := 1; i <= b.deep; i++ {
		if fits, err := g.allows(memoryStep); err != nil || !fits {
			b.report.Note("%s: the slope of memory ends at %d sandboxes: less than %d MiB would stay available.", c.name, i-1, reserveMiB)
			break
		}
		c.cell.Container(s, sleeps).Create(s, harness.IO{}).Start(s)
		if i < memoryBegin || (i-memoryBegin)%memoryStep != 0 {
			continue
		}
		if err := pause(s.Context(), memorySettle); err != nil {
			s.Fatalf("%w", err)
		}
		now, sum, err := c.memory()
		if err == nil {
			err = g.note(before, i)
		}
		if err != nil {
			s.Fatalf("measuring the memory of %d sandboxes: %w", i, err)
		}
		at, pss, taken = append(at, float64(i)), append(pss, sum), append(taken, megabytes(before-now))
		b.report.Of(memoryPSS, c.name, i).Add(pss[len(pss)-1])
		b.report.Of(memoryTaken, c.name, i).Add(taken[len(taken)-1])
	}
	if len(at) > 1 {
		b.report.Of(slopePSS, c.name, 0).Add(stats.Slope(at, pss))
		b.report.Of(slopeTaken, c.name, 0).Add(stats.Slope(at, taken))
	}
	for _, p := range c.cell.Program("containerd-shim-") {
		if mb, err := proportional(p.PID); err == nil {
			b.report.Of(shimPSS, c.name, 0).Add(mb)
		}
	}
}

// memory is what is available on the host, in MiB, and the sum of the processes'
// shares, in MB.
func (c *contestant) memory() (available, pss float64, err error) {
	if available, err = availableMiB(); err != nil {
		return 0, 0, err
	}
	for _, p := range c.cell.Below() {
		mb, err := proportional(p.PID)
		// A process that has ended meanwhile has no memory.
		if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ESRCH) {
			return 0, 0, fmt.Errorf("%s: %w", filepath.Base(p.Exe), err)
		}
		pss += mb
	}
	return available, pss, nil
}

// proportional is a process's share of the memory that it uses, in MB.
func proportional(pid int) (float64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(data)) {
		var kib float64
		if _, err := fmt.Sscanf(line, "Pss: %g kB", &kib); err == nil {
			return kib * 1024 / 1e6, nil
		}
	}
	return 0, fmt.Errorf("no Pss of the process %d", pid)
}

func megabytes(mib float64) float64 { return mib * (1 << 20) / 1e6 }

// pause waits; it is an error if ctx ends before.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
