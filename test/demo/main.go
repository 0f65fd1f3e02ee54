// Command demo shows a container in a virtual machine of its own: it starts a
// private containerd, imports an image that it builds without a network, runs
// `ctr run --runtime io.containerd.hyper.v2 … uname -a`, and ends everything.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hyperhq/hyper/test/harness"
	"github.com/hyperhq/hyper/test/image"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	err := demo(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// step says what is being done, and how long it took when it is.
func step(what string, do func() error) error {
	fmt.Printf("• %s … ", what)
	begin := time.Now()
	if err := do(); err != nil {
		fmt.Println("failed")
		return fmt.Errorf("%s: %w", what, err)
	}
	fmt.Printf("%.1f s\n", time.Since(begin).Seconds())
	return nil
}

func demo(ctx context.Context) (err error) {
	if os.Geteuid() != 0 {
		return fmt.Errorf("containerd mounts file systems: run this as root")
	}
	parts, err := harness.FindParts()
	if err != nil {
		return err
	}
	if err := parts.CheckHyper(); err != nil {
		return err
	}
	removed, err := harness.RemoveStale()
	if err != nil {
		return err
	}
	for _, dir := range removed {
		fmt.Println("• removed what a killed run had left:", dir)
	}
	work, err := os.MkdirTemp("", "hyper-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	var img *image.Image
	err = step("building an image from busybox, without a network", func() (err error) {
		img, err = image.Build(ctx, work)
		return err
	})
	if err != nil {
		return err
	}
	reaper, err := harness.NewReaper()
	if err != nil {
		return err
	}
	defer reaper.Close()
	return show(ctx, harness.CellOptions{
		Parts: parts, Containerd: parts.Newest(), Kernel: parts.Kernels[0],
		Runtime: harness.RuntimeHyper, Image: img, Reaper: reaper,
	})
}

// show runs the containers and compares them with the host.
func show(ctx context.Context, o harness.CellOptions) (err error) {
	var cell *harness.Cell
	err = step("starting a private "+filepath.Base(o.Containerd)+", importing the image", func() (err error) {
		cell, err = harness.NewCell(ctx, o)
		return err
	})
	if err != nil {
		return err
	}
	fmt.Println("  its root, state and sockets:", cell.Dir)
	before := cell.Snapshot()
	defer func() {
		left := cell.LeftSince(before)
		closed := step("ending it", cell.Close)
		if err == nil {
			err = closed
		}
		if err == nil && len(left) > 0 {
			err = fmt.Errorf("the container left behind:\n  %s", strings.Join(left, "\n  "))
		}
		if err == nil {
			fmt.Println("• nothing is left running")
		}
	}()
	return compare(ctx, cell)
}

func compare(ctx context.Context, cell *harness.Cell) error {
	args := []string{"run", "--rm", "--runtime", cell.Runtime, image.Name, "demo", "uname", "-a"}
	fmt.Println("\n$ ctr", strings.Join(args, " "))
	var stdout, stderr strings.Builder
	cmd := cell.CtrCommand(ctx, args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	begin := time.Now()
	err := cell.RunCommand(cmd)
	took := time.Since(begin)
	said := stdout.String()
	fmt.Print(said)
	if err != nil {
		return fmt.Errorf("the container failed: %w\n%s%s", err, stderr.String(), cell.LogSince(0))
	}
	fields := strings.Fields(said)
	if len(fields) < 3 {
		return fmt.Errorf("the container said %q, which is no answer of uname", said)
	}
	var host unix.Utsname
	if err := unix.Uname(&host); err != nil {
		return err
	}
	fmt.Println()
	fmt.Printf("  host kernel    %s\n", unix.ByteSliceToString(host.Release[:]))
	fmt.Printf("  guest kernel   %s\n", fields[2])
	fmt.Printf("  from ctr's start to its end, a machine booted and gone: %.2f s\n\n", took.Seconds())
	return nil
}
