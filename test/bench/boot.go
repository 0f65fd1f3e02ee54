package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/hyperhq/hyper/proto/channel"
	"github.com/hyperhq/hyper/test/bench/floor"
	"github.com/hyperhq/hyper/test/bench/report"
	"github.com/hyperhq/hyper/virtcontainers"
)

var bootFirstWord = report.Quantity{Name: "BootFirstWord", Title: "machine from its start to its first word", Unit: "ms"}

func bootTakes(o *options) time.Duration { return time.Duration(o.n) * 2400 * time.Millisecond }

// way is one of making a machine, which is measured until it says a word.
type way struct {
	name string
	once func(context.Context) (time.Duration, error)
}

// agentsWord is a way to a machine whose agent answers.
func agentsWord(name string, start func(context.Context) (virtcontainers.VM, error)) way {
	return way{name, func(ctx context.Context) (time.Duration, error) { return firstWord(ctx, start) }}
}

// floorsWord is a way to the floor's word.
func floorsWord(name string, guest *floor.Floor, arguments floor.Arguments) way {
	return way{name, func(ctx context.Context) (time.Duration, error) { return guest.Boot(ctx, arguments) }}
}

// measureBoot measures from the start of QEMU until the agent answers: of machines
// that boot, beside both floors (see package floor), and of clones of either kind.
func measureBoot(ctx context.Context, b *bench) error {
	machines, err := b.newMachines(ctx)
	if err != nil {
		return err
	}
	guest, err := floor.New(ctx, b.work, machines.spec.Kernel)
	if err != nil {
		return err
	}
	saved, err := saveTemplate(ctx, filepath.Join(b.work, "templates"), machines.driver, machines.spec)
	if err != nil {
		return fmt.Errorf("saving a template: %w", err)
	}
	defer saved.close()
	ways := []way{
		agentsWord(cold, func(ctx context.Context) (virtcontainers.VM, error) {
			return machines.driver.Start(ctx, machines.spec)
		}),
		agentsWord("clone", func(ctx context.Context) (virtcontainers.VM, error) {
			return saved.shared(ctx, machines.driver, machines.spec)
		}),
		agentsWord("clone-private", func(ctx context.Context) (virtcontainers.VM, error) {
			return saved.private(ctx, machines.driver, machines.spec)
		}),
		floorsWord(bare, guest, floor.Bare(b.report.Accel)),
		floorsWord(least, guest, floor.Least(b.report.Accel)),
	}
	b.progress.start("boot", b.n)
	for range b.n {
		for _, w := range ways {
			took, err := w.once(ctx)
			if err != nil {
				return fmt.Errorf("%s: %w", w.name, err)
			}
			b.report.Of(bootFirstWord, w.name, 0).Add(milliseconds(took))
		}
		b.progress.step()
	}
	return nil
}

// firstWord starts a machine, waits until its agent answers, and ends it.
func firstWord(ctx context.Context, start func(context.Context) (virtcontainers.VM, error)) (took time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	begin := time.Now()
	vm, err := start(ctx)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, vm.Kill(context.WithoutCancel(ctx))) }()
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
