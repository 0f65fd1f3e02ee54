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

	"github.com/hyperhq/hyper/test/bench/plots"
	"github.com/hyperhq/hyper/test/bench/report"
	"github.com/hyperhq/hyper/test/harness"
	"github.com/hyperhq/hyper/test/image"
)

// bench is one run of the benchmark.
type bench struct {
	*options
	parts       *harness.Parts
	work        string // a directory for what is needed meanwhile
	contestants []*contestant
	report      *report.Report
	progress    progress
	closers     []func() error // of what measuring containers needs
}

// measure measures and writes the report. A group that fails is noted there and
// does not keep the others from being measured; when ctx ends nothing is written.
func measure(ctx context.Context, o *options) (err error) {
	parts, err := harness.FindParts()
	if err == nil {
		err = parts.CheckHyper()
	}
	if err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return fmt.Errorf("starting containers needs root")
	}
	if _, err := harness.RemoveStale(); err != nil {
		return err
	}
	work, remove, err := harness.WorkDir()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, remove()) }()
	b := &bench{options: o, parts: parts, work: work, progress: progress{out: os.Stderr}}
	b.choose()
	if err := b.describe(ctx); err != nil {
		return err
	}
	o.announce(os.Stderr)
	failures := b.runGroups(ctx)
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("interrupted, nothing is reported: %w", context.Cause(ctx))
	}
	return errors.Join(failures, b.write(filepath.Join(parts.Output, "bench")))
}

// choose takes the contestants that there are.
func (b *bench) choose() {
	b.report = &report.Report{Begin: time.Now(), Command: strings.Join(append([]string{"bench"}, b.arguments...), " ")}
	for _, c := range b.chosen() {
		if err := c.find(); err != nil {
			b.report.Note("%s is left out: %v.", c.name, err)
			continue
		}
		b.contestants = append(b.contestants, &c)
		b.report.Contestants = append(b.report.Contestants, report.Contestant{Name: c.name, About: c.about, Config: c.config})
	}
}

// runGroups measures, and returns what failed when everything is closed.
func (b *bench) runGroups(ctx context.Context) (err error) {
	defer func() { err = errors.Join(err, b.close()) }()
	var failures []error
	opened := false
	for _, g := range b.groups() {
		if ctx.Err() != nil {
			break
		}
		if !g.machines && !opened {
			if err := b.open(ctx); err != nil {
				return errors.Join(append(failures, err)...)
			}
			opened = true
		}
		if err := g.run(ctx, b); err != nil {
			b.report.Note("the group %s failed: %s", g.name, firstLine(err))
			failures = append(failures, fmt.Errorf("%s: %w", g.name, err))
		}
	}
	return errors.Join(failures...)
}

// open starts the contestants' containerds. From then on, children of this process
// are reaped by the harness.
func (b *bench) open(ctx context.Context) error {
	img, err := image.Build(ctx, b.work)
	if err != nil {
		return err
	}
	reaper, err := harness.NewReaper()
	if err != nil {
		return err
	}
	b.closers = append(b.closers, func() error { reaper.Close(); return nil })
	for _, c := range b.contestants {
		b.closers = append(b.closers, func() error {
			if c.cell == nil {
				return nil
			}
			return c.cell.Close()
		})
		if err := c.open(ctx, b, img, reaper); err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
	}
	for _, c := range slices.Clone(b.contestants) {
		if err := b.warm(ctx, c); err != nil {
			if err := b.failed(c, err); err != nil {
				return err
			}
		}
	}
	return nil
}

// close releases what open has taken, the last first.
func (b *bench) close() error {
	var errs []error
	for _, c := range slices.Backward(b.closers) {
		errs = append(errs, c())
	}
	b.closers = nil
	return errors.Join(errs...)
}

// failed drops a contestant that may be missing; of another it is an error.
func (b *bench) failed(c *contestant, err error) error {
	if !c.optional {
		return fmt.Errorf("%s: %w", c.name, err)
	}
	b.report.Note("%s is left out from here on: %s", c.name, firstLine(err))
	b.contestants = slices.DeleteFunc(b.contestants, func(other *contestant) bool { return other == c })
	return nil
}

// byTurns measures so many rounds of all contestants, one value of each a round.
func (b *bench) byTurns(ctx context.Context, name string, rounds int, once func(context.Context, *contestant) error) error {
	b.progress.start(name, rounds)
	for range rounds {
		for _, c := range slices.Clone(b.contestants) {
			if err := ctx.Err(); err != nil {
				return context.Cause(ctx)
			}
			if !c.isIn(name) {
				continue
			}
			if err := once(ctx, c); err != nil {
				if err := b.failed(c, err); err != nil {
					return err
				}
			}
		}
		b.progress.step()
	}
	return nil
}

// write finishes the report and puts it, and its plots, into a directory.
func (b *bench) write(dir string) error {
	b.report.End = time.Now()
	load, err := report.Load()
	if err != nil {
		return err
	}
	b.report.Machine.LoadEnd = load
	b.report.Finish()
	if err := b.report.Write(dir, figures(b.counts)); err != nil {
		return err
	}
	if err := plots.Write(dir, b.report); err != nil {
		return err
	}
	fmt.Print(b.report.Markdown(figures(b.counts)))
	fmt.Fprintln(os.Stderr, "this, every value and plots are in", dir)
	return nil
}

// firstLine is what of an error fits into a report.
func firstLine(err error) string {
	line, _, _ := strings.Cut(err.Error(), "\n")
	return line
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
