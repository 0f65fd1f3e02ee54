package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
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
	shimPSS     = report.Quantity{Name: "ShimPSS", Title: "PSS of a shim among many", Unit: "MB"}
)

// The memory is looked at with so many sandboxes at first, and after each so many
// more. Some time before each look guests give back what they have freed.
const (
	memoryBegin  = 4
	memoryStep   = 4
	memorySettle = 4 * time.Second
)

func memoryTakes(o *options) time.Duration {
	in := slices.DeleteFunc(o.chosen(), func(c contestant) bool { return !c.isIn("memory") })
	looks := time.Duration(o.deep / memoryStep * len(in))
	return time.Duration(o.deep)*o.starts(200*time.Millisecond) + looks*memorySettle
}

// measureMemory starts sandboxes one after another. Contestants take no turns here:
// what is available belongs to all.
func measureMemory(ctx context.Context, b *bench) error {
	for _, c := range slices.Clone(b.contestants) {
		if !c.isIn("memory") {
			continue
		}
		b.progress.start("memory of "+c.name, b.deep)
		if err := run(ctx, func(s *script) { b.grow(s, c) }); err != nil {
			if err := b.failed(c, err); err != nil {
				return err
			}
		}
	}
	return nil
}

// growth is what was seen of one contestant: with at sandboxes, how many MB.
type growth struct {
	before         float64 // MiB that were available without any
	guard          guard
	at, pss, taken []float64
}

// grow measures one contestant.
func (b *bench) grow(s *script, c *contestant) {
	before, err := availableMiB()
	if err != nil {
		s.Fatalf("%w", err)
	}
	g := &growth{before: before}
	for i := 1; i <= b.deep; i++ {
		fits, err := g.guard.allows(memoryStep)
		if err != nil {
			s.Fatalf("%w", err)
		}
		if !fits {
			b.report.Note("%s: the slope of memory ends at %d sandboxes: less than %d MiB would stay available.", c.name, i-1, reserveMiB)
			break
		}
		c.cell.Container(s, sleeps).Create(s, harness.IO{}).Start(s)
		b.progress.step()
		if i >= memoryBegin && (i-memoryBegin)%memoryStep == 0 {
			if err := g.look(s.Context(), c, i); err != nil {
				s.Fatalf("measuring the memory of %d sandboxes: %w", i, err)
			}
		}
	}
	b.reportGrowth(c, g)
}

// look measures with so many sandboxes.
func (g *growth) look(ctx context.Context, c *contestant, sandboxes int) error {
	if err := pause(ctx, memorySettle); err != nil {
		return err
	}
	now, pss, err := c.memory()
	if err != nil {
		return err
	}
	g.at = append(g.at, float64(sandboxes))
	g.pss = append(g.pss, pss)
	g.taken = append(g.taken, megabytes(g.before-now))
	return g.guard.note(g.before, sandboxes)
}

// reportGrowth reports what was seen, and the shims that run.
func (b *bench) reportGrowth(c *contestant, g *growth) {
	for i, at := range g.at {
		b.report.Of(memoryPSS, c.name, int(at)).Add(g.pss[i])
		b.report.Of(memoryTaken, c.name, int(at)).Add(g.taken[i])
	}
	if len(g.at) > 1 {
		b.report.Of(slopePSS, c.name, 0).Add(stats.Slope(g.at, g.pss))
		b.report.Of(slopeTaken, c.name, 0).Add(stats.Slope(g.at, g.taken))
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
