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

// boots measures from the start of QEMU until the agent answers: of machines that
// boot, beside the floor (see package floor), and of clones of either kind.
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
	saved, err := saveTemplate(ctx, filepath.Join(b.work, "templates"), driver, spec)
	if err != nil {
		return fmt.Errorf("saving a template: %w", err)
	}
	defer saved.close()
	ways := []struct {
		series *Series
		once   func() (time.Duration, error)
	}{
		{&Series{Name: "cold boot to the first word: agent", Unit: "ms"}, func() (time.Duration, error) {
			return boot(ctx, func(ctx context.Context) (virtcontainers.VM, error) { return driver.Start(ctx, spec) })
		}},
		{&Series{Name: "clone with private memory to the first word", Unit: "ms"}, func() (time.Duration, error) {
			return boot(ctx, func(ctx context.Context) (virtcontainers.VM, error) { return saved.private(ctx, driver, spec) })
		}},
		{&Series{Name: "clone with shared memory to the first word", Unit: "ms"}, func() (time.Duration, error) {
			return boot(ctx, func(ctx context.Context) (virtcontainers.VM, error) { return saved.shared(ctx, driver, spec) })
		}},
		{&Series{Name: "cold boot to the first word: floor", Unit: "ms"}, func() (time.Duration, error) { return least.Boot(ctx) }},
	}
	for range n {
		for _, way := range ways {
			took, err := way.once()
			if err != nil {
				return fmt.Errorf("%s: %w", way.series.Name, err)
			}
			way.series.add(milliseconds(took))
		}
	}
	cold, private, shared, word := ways[0].series, ways[1].series, ways[2].series, ways[3].series
	b.report.add(cold, word)
	b.report.add(private, cold)
	b.report.add(shared, cold)
	return nil
}

// boot starts a machine, waits until its agent answers, and ends it.
func boot(ctx context.Context, start func(context.Context) (virtcontainers.VM, error)) (took time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	begin := time.Now()
	vm, err := start(ctx)
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
