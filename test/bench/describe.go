package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/containerd/log"

	"github.com/hyperhq/hyper/qemu"
	"github.com/hyperhq/hyper/test/bench/report"
	"github.com/hyperhq/hyper/virtcontainers"
)

// busy is the load average, for each processor, from which on a machine is not idle.
const busy = 0.25

// describe notes on what is measured. It warns of a machine that has other work.
func (b *bench) describe(ctx context.Context) (err error) {
	if b.report.Machine, err = report.ThisMachine(); err != nil {
		return err
	}
	if m := b.report.Machine; m.LoadBegin > busy*float64(m.CPUs) {
		b.report.Note("the machine was not idle when this began: the load average was %.2f on %d CPUs; times are too long, and ratios uncertain.", m.LoadBegin, m.CPUs)
		fmt.Fprintln(os.Stderr, "warning:", b.report.Notes[len(b.report.Notes)-1])
	}
	b.report.Versions = b.versions(ctx)
	b.report.Accel, err = b.acceleration(ctx)
	return err
}

func (b *bench) versions(ctx context.Context) []report.Version {
	versions := []report.Version{
		{Of: "Hyper", What: firstOf(ctx, "git", "-C", b.parts.Output, "describe", "--always", "--dirty")},
		{Of: "guest kernel", What: b.guestKernel()},
		{Of: "QEMU", What: firstOf(ctx, "qemu-system-x86_64", "--version")},
		{Of: "containerd", What: strings.TrimPrefix(filepath.Base(b.parts.Newest()), "containerd-")},
		{Of: "runc", What: firstOf(ctx, filepath.Join(b.parts.RuncBin, "runc"), "--version")},
	}
	for _, c := range b.contestants {
		if c.program == "" {
			continue
		}
		version := firstOf(ctx, c.program, "--version")
		versions = append(versions, report.Version{Of: c.name, What: version + " " + strings.Join(c.arguments, " ")})
		if date, ok := dateIn(version); ok {
			b.report.Note("%s is of %s: one of today may be faster or slower.", c.name, date)
		}
	}
	return versions
}

// guestKernel is the name of the kernel with the version that is in it.
func (b *bench) guestKernel() string {
	name := b.parts.Kernels[0]
	kernel, _ := b.parts.Kernel(name)
	data, err := os.ReadFile(kernel)
	if err != nil {
		return name
	}
	if found := kernelVersion.FindSubmatch(data); found != nil {
		return name + " " + string(found[1])
	}
	return name
}

var kernelVersion = regexp.MustCompile(`Linux version ([0-9][^ ]*) `)

// dateIn is the date that a version of Debian's snapshots has in it.
func dateIn(version string) (date string, ok bool) {
	digits := regexp.MustCompile(`\b20[0-9]{6}\b`).FindString(version)
	day, err := time.Parse("20060102", digits)
	return day.Format(time.DateOnly), err == nil
}

// firstOf is the first line of what a command prints, without its own name before
// the version.
func firstOf(ctx context.Context, name string, args ...string) string {
	out, err := exec.CommandContext(ctx, name, args...).Output()
	if err != nil {
		return "unknown"
	}
	line, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	if _, version, ok := strings.Cut(line, "version "); ok {
		return version
	}
	return line
}

// acceleration boots a machine as Hyper does and looks how QEMU runs its code.
func (b *bench) acceleration(ctx context.Context) (accel string, err error) {
	machines, err := b.newMachines(ctx)
	if err != nil {
		return "", err
	}
	vm, err := machines.driver.Start(ctx, machines.spec)
	if err != nil {
		return "", fmt.Errorf("starting a machine to see its acceleration: %w", err)
	}
	defer func() { err = errors.Join(err, vm.Kill(context.WithoutCancel(ctx))) }()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", vm.PID()))
	if err != nil {
		return "", fmt.Errorf("reading QEMU's arguments: %w", err)
	}
	return accelOf(strings.Split(string(data), "\x00")), nil
}

// accelOf is what QEMU's arguments say of the acceleration.
func accelOf(args []string) string {
	for i, arg := range args {
		if arg == "-accel" && i+1 < len(args) {
			name, _, _ := strings.Cut(args[i+1], ",")
			return name
		}
	}
	return "unknown"
}

// machines are made by Hyper's driver without containerd.
type machines struct {
	driver *qemu.Driver
	spec   virtcontainers.VMSpec
}

// newMachines makes a driver of a configuration's defaults, and a directory for
// one machine at a time.
func (b *bench) newMachines(ctx context.Context) (*machines, error) {
	driver, err := qemu.New(qemu.Config{}, log.G(ctx))
	if err != nil {
		return nil, err
	}
	kernel, image := b.parts.Kernel(b.parts.Kernels[0])
	dir, err := os.MkdirTemp(b.work, "vm")
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(dir, 0o711); err != nil {
		return nil, err
	}
	return &machines{driver, virtcontainers.VMSpec{ID: "bench", Dir: dir, VCPUs: 1, MemoryMiB: 256, Kernel: kernel, Image: image}}, nil
}
