package qemu

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"

	"github.com/hyperhq/hyper/virtcontainers"
)

// sharePlug is the id of the share's plug, and reclaimPlug that of the device by
// which the guest gives memory back.
const (
	sharePlug   = "share"
	reclaimPlug = "balloon"
)

// StartClone implements virtcontainers.Cloner.
//
// Errors: those of Start, and ErrUnavailable, with QEMU's last words, if it would
// not go on from what was saved.
func (d *Driver) StartClone(ctx context.Context, spec virtcontainers.VMSpec, saved virtcontainers.Saved) (_ virtcontainers.VM, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("clone VM %q: %w", spec.ID, err)
		}
	}()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := d.check(spec); err != nil {
		return nil, err
	}
	if err := d.checkTemplate(spec, saved.Memory); err != nil {
		return nil, err
	}
	if spec.Share != nil && !saved.Private {
		return nil, fmt.Errorf("the daemon of its share maps its memory, which must therefore be private: %w", errdefs.ErrInvalidArgument)
	}
	l := &launch{driver: d, spec: spec, role: resumes, memory: saved.Memory, private: saved.Private}
	m, err := l.start()
	if err != nil {
		return nil, err
	}
	if err := m.resume(ctx, spec, saved); err != nil {
		err = fmt.Errorf("%w: %w\n%s", m.orGone(err), errdefs.ErrUnavailable, m.Log())
		undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
		defer cancel()
		if left := m.Kill(undo); left != nil {
			err = fmt.Errorf("%w; and then to undo it: %w", err, left)
		}
		return nil, err
	}
	return m, nil
}

// resume has a QEMU that was just started go on from what was saved.
func (m *machine) resume(ctx context.Context, spec virtcontainers.VMSpec, saved virtcontainers.Saved) error {
	steps := newSteps()
	var filled sync.WaitGroup
	var fillErr error
	if saved.Fill != nil {
		filled.Go(func() { fillErr = saved.Fill() })
	}
	err := m.monitor.PrepareMigration(ctx)
	steps.end("monitor")
	filled.Wait()
	if err := errors.Join(fillErr, err); err != nil {
		return err
	}
	steps.end("memory")
	if err := m.monitor.Restore(ctx, saved.State); err != nil {
		return err
	}
	if err := m.awaitMigration(ctx); err != nil {
		return err
	}
	steps.end("state")
	if spec.Share != nil {
		if err := m.plugShare(ctx, spec.Share.Tag); err != nil {
			return err
		}
		steps.end("share")
	}
	if err := m.monitor.Cont(ctx); err != nil {
		return err
	}
	steps.end("continue")
	log.G(ctx).WithFields(steps.fields).Debug("a clone runs")
	return nil
}

// steps measures what follows each other, in milliseconds.
type steps struct {
	last   time.Time
	fields log.Fields
}

func newSteps() *steps { return &steps{last: time.Now(), fields: log.Fields{}} }

func (s *steps) end(name string) {
	now := time.Now()
	s.fields[name+"_ms"] = float64(now.Sub(s.last).Microseconds()) / 1000
	s.last = now
}

// plugged are the arguments of device_add for a device that a clone is given.
type plugged struct {
	Driver    string `json:"driver"`
	ID        string `json:"id"`
	Bus       string `json:"bus"`
	Addr      string `json:"addr"`
	Chardev   string `json:"chardev,omitempty"`
	Tag       string `json:"tag,omitempty"`
	Reporting bool   `json:"free-page-reporting,omitempty"`
	NoLegacy  string `json:"disable-legacy,omitempty"` // as for cards, where there is a choice
	MemDev    string `json:"memdev,omitempty"`
	BlockSize uint64 `json:"block-size,omitempty"`
}

// plugForGood plugs in a device that stays as long as the machine does.
func (m *machine) plugForGood(ctx context.Context, id string, device plugged) error {
	p, err := m.plugs.take(id)
	if err != nil {
		return err
	}
	defer p.leave()
	device.Bus, device.Addr = hotplugBus, p.address()
	if device.ID == "" {
		device.ID = p.device
	}
	return m.monitor.AddDevice(ctx, device)
}

func (m *machine) plugShare(ctx context.Context, tag string) error {
	return m.plugForGood(ctx, sharePlug, plugged{Driver: "vhost-user-fs-pci", Chardev: shareChardev, Tag: tag})
}

// ReclaimMemory implements virtcontainers.VM.
func (m *machine) ReclaimMemory(ctx context.Context) error {
	if m.booted {
		return nil
	}
	err := m.checkHotplug(ctx)
	if err == nil && !m.memory.own {
		// To give pages back is to make holes in the file that clones have in common.
		err = fmt.Errorf("its memory is its template's, but for what it has changed: %w", errdefs.ErrNotImplemented)
	}
	if err == nil {
		err = m.orGone(m.plugForGood(ctx, reclaimPlug, plugged{Driver: "virtio-balloon-pci", Reporting: true, NoLegacy: "on"}))
	}
	if err != nil {
		return fmt.Errorf("have VM %q give memory back: %w", m.id, err)
	}
	return nil
}
