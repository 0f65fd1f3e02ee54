package factory

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/hyperhq/hyper/config"
	"github.com/hyperhq/hyper/proto/channel"
	"github.com/hyperhq/hyper/sandbox/factory/template"
	"github.com/hyperhq/hyper/virtcontainers"
)

// endTimeout bounds the end of a machine that was saved.
const endTimeout = 10 * time.Second

// Build makes the template of a kind, unless it is there, or another process builds
// one. It boots a machine for it and saves that once its guest is fit for containers.
// Its errors are those of template.Store.Build.
func Build(ctx context.Context, c *config.Config, kind Kind) error {
	cold, err := NewCold(c)
	if err != nil {
		return err
	}
	key, err := cold.key(kind)
	if err != nil {
		return err
	}
	return storeOf(c).Build(ctx, key, func(ctx context.Context) (memory, state *os.File, err error) {
		vm, err := cold.template(kind)
		if err != nil {
			return nil, nil, err
		}
		if memory, err = template.NewMemory(int64(vm.MemoryMiB << 20)); err != nil {
			return nil, nil, err
		}
		if state, err = template.NewMemory(0); err == nil {
			err = cold.save(ctx, vm, memory, state)
		}
		if err != nil {
			memory.Close()
			state.Close() // also of none
			return nil, nil, err
		}
		return memory, state, nil
	})
}

// save boots a machine and saves it in the two files.
func (f *Cold) save(ctx context.Context, vm virtcontainers.VMSpec, memory, state *os.File) (err error) {
	machine, err := f.hypervisor.StartTemplate(ctx, vm, memory)
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTimeout)
		defer cancel()
		err = errors.Join(err, machine.Kill(ctx))
	}()
	// A machine that ends need not be waited for.
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() { // ends with ctx, so with save
		select {
		case <-machine.Done():
			cancel(fmt.Errorf("the machine ended: %w", machine.Err()))
		case <-ctx.Done():
		}
	}()
	conn, err := machine.Channel(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := channel.Probe(ctx, conn); err != nil {
		return fmt.Errorf("waiting for the guest to be fit for containers: %w\n%s", err, machine.Log())
	}
	return machine.Save(ctx, state)
}
