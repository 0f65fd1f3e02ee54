// Command bench measures Hyper beside runc, and its boot beside the least boot
// that there can be. Both sides of each comparison are measured by turns; it
// prints a table and keeps it, with every value as JSON, in $HYPER_OUTPUT/bench.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hyperhq/hyper/test/harness"
	"github.com/hyperhq/hyper/test/image"
)

func main() {
	n := flag.Int("n", 10, "how many pairs to measure of each comparison")
	machines := flag.Bool("machines", false, "measure the starts of machines only, without containers")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	err := measure(ctx, *n, *machines)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// bench is one run of the benchmark.
type bench struct {
	parts       *harness.Parts
	work        string
	contestants []contestant // Hyper, and runc
	report      Report
}

func measure(ctx context.Context, n int, machines bool) (err error) {
	parts, err := harness.FindParts()
	if err == nil {
		err = parts.CheckHyper()
	}
	if err != nil {
		return err
	}
	if _, err := harness.RemoveStale(); err != nil {
		return err
	}
	work, err := os.MkdirTemp("", "hyper-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	// QEMU, which is not root, must be able to pass.
	if err := os.Chmod(work, 0o711); err != nil {
		return err
	}
	b := &bench{parts: parts, work: work}
	if err := b.describe(); err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "starting %d machines\n", 4*n)
	if err := b.boots(ctx, n); err != nil {
		return err
	}
	if !machines {
		if err := b.containers(ctx, n); err != nil {
			return err
		}
	}
	fmt.Print(b.report.markdown())
	return b.report.write(filepath.Join(parts.Output, "bench"))
}

// containers measures what is in machines, beside runc.
func (b *bench) containers(ctx context.Context, n int) (err error) {
	img, err := image.Build(ctx, b.work)
	if err != nil {
		return err
	}
	// From here on, children are reaped by the harness.
	reaper, err := harness.NewReaper()
	if err != nil {
		return err
	}
	defer reaper.Close()
	defer func() { err = errors.Join(err, b.close()) }()
	if err := b.open(ctx, img, reaper); err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "running %d containers\n", 2*n)
	if err := b.runs(ctx, n); err != nil {
		return err
	}
	fmt.Fprintln(os.Stderr, "measuring the shims")
	if err := b.shims(ctx, max(n/2, 1), 5*n); err != nil {
		return err
	}
	fmt.Fprintln(os.Stderr, "measuring in containers that run")
	return run(ctx, func(s *script) { b.inside(s, 2*n, max(n/3, 1)) })
}

// describe notes on what is measured.
func (b *bench) describe() error {
	var host unix.Utsname
	if err := unix.Uname(&host); err != nil {
		return err
	}
	load, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return err
	}
	b.report = Report{
		When: time.Now(), HostKernel: unix.ByteSliceToString(host.Release[:]), Kernel: b.parts.Kernels[0],
		Containerd: strings.TrimPrefix(filepath.Base(b.parts.Newest()), "containerd-"),
		CPUs:       runtime.NumCPU(), Load: strings.Fields(string(load))[0],
	}
	return nil
}

func (b *bench) open(ctx context.Context, img *image.Image, reaper *harness.Reaper) error {
	for _, name := range []string{harness.RuntimeHyper, harness.RuntimeRunc} {
		cell, err := harness.NewCell(ctx, harness.CellOptions{
			Parts: b.parts, Containerd: b.parts.Newest(), Kernel: b.parts.Kernels[0], Runtime: name, Image: img, Reaper: reaper,
		})
		if err != nil {
			return err
		}
		short := strings.TrimSuffix(strings.TrimPrefix(name, "io.containerd."), ".v2")
		b.contestants = append(b.contestants, contestant{short, cell})
	}
	return nil
}

func (b *bench) close() error {
	var errs []error
	for _, c := range b.contestants {
		errs = append(errs, c.cell.Close())
	}
	return errors.Join(errs...)
}
