package sandbox

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	agentv1 "github.com/hyperhq/hyper/proto/hyper/agent/v1"
	"github.com/hyperhq/hyper/virtcontainers"
)

// diskTimeout bounds how long the machine may take to have a disk, or to let go of
// it.
const diskTimeout = 15 * time.Second

// diskMachine is what disks are plugged into.
type diskMachine interface {
	AttachDisk(ctx context.Context, disk virtcontainers.Disk) error
	DetachDisk(ctx context.Context, id string) error
}

// disks are the host's block devices that a machine has. Containers that use the
// same device share a disk:
//
//	(none) ──use──▶ attaching ──▶ in use by n ──last leave──▶ detaching ──▶ (none)
//	                    └─ failure ─▶ (none)
//
// An id is used once, so that a disk that the guest does not let go of is in
// nobody's way. The zero value has none.
type disks struct {
	mu    sync.Mutex
	inUse []*disk
	made  int // ever
}

// disk is one disk of the machine. Its users are guarded by the lock of disks.
type disk struct {
	id       string
	device   virtcontainers.DeviceNumber
	readOnly bool
	users    int
	// settled is closed when the machine has the disk, or err says why not.
	settled chan struct{}
	err     error
}

// use gives a disk that is the device, which the machine has when use returns.
// Whoever asks to read may get one that others write: what the container may do, the
// guest sees to. leave must follow.
func (ds *disks) use(ctx context.Context, m diskMachine, want virtcontainers.PlannedDisk) (*disk, error) {
	for {
		d, first := ds.join(want)
		if first {
			err := d.attach(ctx, m, want.Path)
			if err != nil {
				ds.drop(d)
			}
			d.err = err
			close(d.settled)
			if err != nil {
				return nil, err
			}
			return d, nil
		}
		select {
		case <-d.settled:
		case <-ctx.Done():
			// Who attaches it may have left it by now: then it is ours to take out.
			err := fmt.Errorf("waiting for block device %s to be attached: %w", want.DeviceNumber, ctx.Err())
			return nil, errors.Join(err, ds.leave(ctx, m, d))
		}
		if d.err == nil {
			return d, nil
		}
		// What stopped another need not stop us.
	}
}

// join makes the caller a user of a disk, and says whether it is the first, who has
// to attach it.
func (ds *disks) join(want virtcontainers.PlannedDisk) (d *disk, first bool) {
	ds.mu.Lock()
	defer ds.mu.Unlock()
	for _, d := range ds.inUse {
		if d.device == want.DeviceNumber && (!d.readOnly || want.ReadOnly()) {
			d.users++
			return d, false
		}
	}
	ds.made++
	d = &disk{
		id:       fmt.Sprintf("disk%d", ds.made),
		device:   want.DeviceNumber,
		readOnly: want.ReadOnly(),
		users:    1,
		settled:  make(chan struct{}),
	}
	ds.inUse = append(ds.inUse, d)
	return d, true
}

// drop makes sure that nobody joins any more.
func (ds *disks) drop(d *disk) {
	ds.mu.Lock()
	defer ds.mu.Unlock()
	ds.dropLocked(d)
}

func (ds *disks) dropLocked(d *disk) {
	for i, other := range ds.inUse {
		if other == d {
			ds.inUse = append(ds.inUse[:i], ds.inUse[i+1:]...)
			return
		}
	}
}

func (d *disk) attach(ctx context.Context, m diskMachine, path string) error {
	f, err := openBlockDevice(d.device, path, d.readOnly)
	if err != nil {
		return err
	}
	defer f.Close()
	ctx, cancel := context.WithTimeout(ctx, diskTimeout)
	defer cancel()
	if err := m.AttachDisk(ctx, virtcontainers.Disk{ID: d.id, File: f, ReadOnly: d.readOnly}); err != nil {
		return fmt.Errorf("block device %s (%s): %w", path, d.device, err)
	}
	return nil
}

// leave ends a use, even when ctx has ended. The last one takes the disk out of the
// machine; one that has ended needs no such thing.
func (ds *disks) leave(ctx context.Context, m diskMachine, d *disk) error {
	ds.mu.Lock()
	d.users--
	last := d.users == 0
	if last {
		ds.dropLocked(d)
	}
	ds.mu.Unlock()
	if !last {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), diskTimeout)
	defer cancel()
	if err := m.DetachDisk(ctx, d.id); err != nil && !errdefs.IsUnavailable(err) {
		return fmt.Errorf("the machine keeps block device %s until it ends: %w", d.device, err)
	}
	return nil
}

// attachDisks gives the machine the disks that the container wants, once it is there,
// and makes of each what the agent must know. When it fails releaseDisks still must
// follow.
func (c *Container) attachDisks(ctx context.Context) error {
	if len(c.plan.Disks) == 0 {
		return nil
	}
	if err := c.guest.wait(ctx, c.guest.ready); err != nil {
		return err
	}
	for _, want := range c.plan.Disks {
		d, err := c.guest.disks.use(ctx, c.guest.machine, want)
		if err != nil {
			return fmt.Errorf("giving container %s a disk: %w", c.id, err)
		}
		c.mu.Lock()
		c.disks = append(c.disks, usedDisk{d, want})
		c.mu.Unlock()
	}
	return nil
}

// usedDisk is a disk as one container uses it.
type usedDisk struct {
	*disk
	as virtcontainers.PlannedDisk
}

// guestDisks are the container's disks as the agent is told of them.
func (c *Container) guestDisks() []*agentv1.Disk {
	c.mu.Lock()
	defer c.mu.Unlock()
	var list []*agentv1.Disk
	for _, d := range c.disks {
		list = append(list, &agentv1.Disk{
			Serial: d.id,
			Path:   d.as.Path,
			Mode:   uint32(d.as.Mode),
			Uid:    d.as.UID,
			Gid:    d.as.GID,
			Access: d.as.Access,
		})
	}
	return list
}

// releaseDisks undoes attachDisks. The container must be out of the guest.
func (c *Container) releaseDisks(ctx context.Context) {
	c.mu.Lock()
	used := c.disks
	c.disks = nil
	c.mu.Unlock()
	for _, d := range used {
		if err := c.guest.disks.leave(ctx, c.guest.machine, d.disk); err != nil {
			c.log.WithError(err).Error("deleting a container")
		}
	}
}
