package qemu

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/containerd/errdefs"

	"github.com/hyperhq/hyper/qemu/qmp"
	"github.com/hyperhq/hyper/virtcontainers"
)

// stateMagic is what a saved state begins with: "QEVM" and the format's version.
const stateMagic = "QEVM\x00\x00\x00\x03"

var _ virtcontainers.Cloner = (*Driver)(nil)

// StartTemplate implements virtcontainers.Cloner.
func (d *Driver) StartTemplate(ctx context.Context, spec virtcontainers.VMSpec, memory *os.File) (virtcontainers.Template, error) {
	err := ctx.Err()
	if err == nil {
		err = d.checkTemplate(spec, memory)
	}
	if err == nil {
		err = d.check(spec)
	}
	if err == nil && spec.Share != nil {
		err = fmt.Errorf("a template has no share, though its clones may have: %w", errdefs.ErrInvalidArgument)
	}
	if err != nil {
		return nil, fmt.Errorf("start template %q: %w", spec.ID, err)
	}
	if err := d.clock.awaitTSC(ctx); err != nil {
		return nil, fmt.Errorf("start template %q: %w", spec.ID, err)
	}
	l := &launch{driver: d, spec: spec, role: saves, memory: memory}
	return l.start()
}

// checkTemplate refuses what cannot be saved or cloned.
func (d *Driver) checkTemplate(spec virtcontainers.VMSpec, memory *os.File) error {
	if d.machine != MachineQ35 {
		return fmt.Errorf("a %s cannot be cloned, because a clone is given its devices while it runs: use machine %q: %w",
			d.machine, MachineQ35, errdefs.ErrNotImplemented)
	}
	info, err := memory.Stat()
	if err != nil {
		return fmt.Errorf("look at the memory: %w", err)
	}
	if size := uint64(info.Size()); size != spec.MemoryMiB<<20 {
		return fmt.Errorf("its memory has %d bytes, not %d MiB: %w", size, spec.MemoryMiB, errdefs.ErrInvalidArgument)
	}
	return nil
}

// Save implements virtcontainers.Template.
func (m *machine) Save(ctx context.Context, state *os.File) error {
	if err := m.save(ctx, state); err != nil {
		return fmt.Errorf("save VM %q: %w", m.id, m.orGone(err))
	}
	return nil
}

func (m *machine) save(ctx context.Context, state *os.File) error {
	if err := m.monitor.Stop(ctx); err != nil {
		return err
	}
	if err := m.monitor.PrepareMigration(ctx); err != nil {
		return err
	}
	if err := m.monitor.Save(ctx, state); err != nil {
		return err
	}
	if err := m.awaitMigration(ctx); err != nil {
		return err
	}
	magic := make([]byte, len(stateMagic))
	if _, err := io.ReadFull(io.NewSectionReader(state, 0, int64(len(magic))), magic); err != nil || string(magic) != stateMagic {
		return fmt.Errorf("QEMU wrote no state (%q, %w)", magic, errors.Join(err, errdefs.ErrInternal))
	}
	return nil
}

// awaitMigration waits for the end of a save or a restore.
func (m *machine) awaitMigration(ctx context.Context) error {
	for {
		select {
		case status := <-m.migrated:
			switch status {
			case qmp.MigrationCompleted:
				return nil
			case qmp.MigrationFailed, qmp.MigrationCancelled:
				why, err := m.monitor.MigrationError(ctx)
				return fmt.Errorf("QEMU: %s %s: %w", status, why, errors.Join(err, errdefs.ErrInternal))
			}
		case <-m.proc.Done():
			return errEnded
		case <-ctx.Done():
			return fmt.Errorf("wait for QEMU: %w", ctx.Err())
		}
	}
}
