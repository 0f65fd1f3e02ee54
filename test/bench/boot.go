package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/log"

	"github.com/hyperhq/hyper/proto/channel"
	"github.com/hyperhq/hyper/qemu"
	"github.com/hyperhq/hyper/test/bench/floor"
	"github.com/hyperhq/hyper/virtcontainers"
)

// boots measures from the start of QEMU until the agent answers, beside the
// floor: see package floor.
func (b *bench) boots(ctx context.Context, n int) error {
	kernel, image := b.parts.Kernel(b.parts.Kernels[0])
	driver, err := qemu.New(qemu.Config{Accel: qemu.AccelTCG}, log.G(ctx))
	if err != nil {
		return err
	}
	spec := virtcontainers.VMSpec{ID: "bench", VCPUs: 1, MemoryMiB: 256, Kernel: kernel, Image: image}
	least, err := floor.New(ctx, b.work, kernel, emulated())
	if err != nil {
		return err
	}
	agent := &Series{Name: "cold boot to the first word: agent", Unit: "ms"}
	word := &Series{Name: "cold boot to the first word: floor", Unit: "ms"}
	for i := range n {
		spec.Dir = filepath.Join(b.work, fmt.Sprintf("vm%d", i))
		if err := os.Mkdir(spec.Dir, 0o711); err != nil {
			return err
		}
		took, err := boot(ctx, driver, spec)
		if err != nil {
			return fmt.Errorf("booting the agent: %w", err)
		}
		agent.add(milliseconds(took))
		if took, err = least.Boot(ctx); err != nil {
			return err
		}
		word.add(milliseconds(took))
	}
	b.report.add(agent, word)
	return nil
}

// boot starts a machine, waits until its agent answers, and ends it.
func boot(ctx context.Context, driver *qemu.Driver, spec virtcontainers.VMSpec) (took time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	begin := time.Now()
	vm, err := driver.Start(ctx, spec)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, vm.Kill(ctx)) }()
	conn, err := vm.Channel(ctx)
	if err != nil {
		return 0, err
	}
	session, err := channel.Connect(ctx, conn)
	if err != nil {
		return 0, fmt.Errorf("%w\n%s", err, vm.Log())
	}
	took = time.Since(begin)
	return took, session.Close()
}

// emulated are kernel arguments that spare an emulated guest its trials of
// clocks; the floor gets those of the driver, or it would be none.
func emulated() string {
	args := "reboot=t cryptomgr.notests no_timer_check noreplace-smp"
	if khz := tscKHz(); khz != "" {
		args += " tsc=reliable tsc_early_khz=" + khz
	}
	return args
}

// tscKHz is the processor's frequency as the host's kernel gives it.
func tscKHz() string {
	data, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(data)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "cpu MHz" {
			mhz, khz, _ := strings.Cut(strings.TrimSpace(value), ".")
			return mhz + (khz + "000")[:3]
		}
	}
	return ""
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
