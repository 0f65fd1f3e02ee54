package main

import (
	"context"
	"errors"
	"os"
	"time"

	"github.com/hyperhq/hyper/proto/channel"
	"github.com/hyperhq/hyper/qemu"
	"github.com/hyperhq/hyper/sandbox/factory/template"
	"github.com/hyperhq/hyper/virtcontainers"
)

// savedTemplate is one of the machine that is measured.
type savedTemplate struct {
	image  *template.Image
	memory *template.Shared
}

func (s *savedTemplate) close() { _ = errors.Join(s.memory.Close(), s.image.Close()) }

// saveTemplate boots a machine and stores it in dir.
func saveTemplate(ctx context.Context, dir string, driver *qemu.Driver, spec virtcontainers.VMSpec) (*savedTemplate, error) {
	const key = "bench"
	store := template.NewStore(dir, 1, 1<<40)
	err := store.Build(ctx, key, func(ctx context.Context) (memory, state *os.File, err error) {
		if memory, err = template.NewMemory(int64(spec.MemoryMiB << 20)); err != nil {
			return nil, nil, err
		}
		if state, err = template.NewMemory(0); err != nil {
			return nil, nil, err
		}
		spec.Shared = true
		return memory, state, save(ctx, driver, spec, memory, state)
	})
	if err != nil {
		return nil, err
	}
	image, err := store.Open(key)
	if err != nil {
		return nil, err
	}
	memory, err := store.Share(image)
	if err != nil {
		return nil, errors.Join(err, image.Close())
	}
	return &savedTemplate{image, memory}, nil
}

func save(ctx context.Context, driver *qemu.Driver, spec virtcontainers.VMSpec, memory, state *os.File) (err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	vm, err := driver.StartTemplate(ctx, spec, memory)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, vm.Kill(ctx)) }()
	conn, err := vm.Channel(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := channel.Probe(ctx, conn); err != nil {
		return err
	}
	return vm.Save(ctx, state)
}

// private starts a clone with a copy of the memory.
func (s *savedTemplate) private(ctx context.Context, driver *qemu.Driver, spec virtcontainers.VMSpec) (virtcontainers.VM, error) {
	memory, err := template.NewMemory(s.image.MemorySize())
	if err != nil {
		return nil, err
	}
	defer memory.Close()
	return s.start(ctx, driver, spec, virtcontainers.Saved{
		Memory: memory, Private: true, Fill: func() error { return s.image.Fill(memory) },
	})
}

// shared starts a clone that copies what it changes.
func (s *savedTemplate) shared(ctx context.Context, driver *qemu.Driver, spec virtcontainers.VMSpec) (virtcontainers.VM, error) {
	return s.start(ctx, driver, spec, virtcontainers.Saved{Memory: s.memory.File})
}

func (s *savedTemplate) start(ctx context.Context, driver *qemu.Driver, spec virtcontainers.VMSpec, saved virtcontainers.Saved) (virtcontainers.VM, error) {
	state, err := s.image.State()
	if err != nil {
		return nil, err
	}
	defer state.Close()
	saved.State = state
	return driver.StartClone(ctx, spec, saved)
}
