package sandbox

import (
	"context"
	"errors"
	"fmt"
	"slices"
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
	mu   sync.Mutex
	all  []*disk
	made int // ever
}

// disk is one disk of the machine.
type disk struct {
	id       string
	device   virtcontainers.DeviceNumber
	readOnly bool
	users    int // guarded by the lock of disks; 0 is detaching
	// settled is closed when the machine has the disk, or err says why not; gone
	// when it is no more.
	settled, gone chan struct{}
	err           error
}

// use gives a disk that is the device, which the machine has when use returns.
// Whoever asks to read may get one that others write: what the container may do, the
// guest sees to. Whoever asks to write what the machine has for reading only gets an
// errdefs.ErrFailedPrecondition. leave must follow.
func (ds *disks) use(ctx context.Context, m diskMachine, want virtcontainers.PlannedDisk) (*disk, error) {
	for {
		d, role, err := ds.join(want)
		if err != nil {
			return nil, err
		}
		stage := d.settled
		switch role {
		case firstUser:
			return ds.bring(ctx, m, d, want.Path)
		case noUser:
			stage = d.gone
		}
		select {
		case <-stage:
		case <-ctx.Done():
			err := fmt.Errorf("waiting for block device %s, which is being attached or detached: %w", want.DeviceNumber, ctx.Err())
			if role == oneOfUsers {
				// Who attaches it may have left it by now: then it is ours to take out.
				err = errors.Join(err, ds.leave(ctx, m, d))
			}
			return nil, err
		}
		if role == oneOfUsers && d.err == nil {
			return d, nil
		}
		// It has gone, or what stopped another need not stop us.
	}
}

// role is what join has made of its caller.
type role int

const (
	firstUser  role = iota // who has to attach the disk
	oneOfUsers             // who waits until it is attached
	noUser                 // who waits until it is gone
)

func (ds *disks) join(want virtcontainers.PlannedDisk) (*disk, role, error) {
	ds.mu.Lock()
	defer ds.mu.Unlock()
	for _, d := range ds.all {
		switch {
		case d.device != want.DeviceNumber:
		case d.users == 0:
			return d, noUser, nil
		case d.readOnly && !want.ReadOnly():
			// A second disk would be a second cache: what one container writes the
			// other would not see.
			return nil, 0, fmt.Errorf("block device %s (%s) is in the pod's machine for reading only, as an earlier container asked: "+
				"create the container that writes to it first: %w", want.Path, want.DeviceNumber, errdefs.ErrFailedPrecondition)
		default:
			d.users++
			return d, oneOfUsers, nil
		}
	}
	ds.made++
	d := &disk{
		id:       fmt.Sprintf("disk%d", ds.made),
		device:   want.DeviceNumber,
		readOnly: want.ReadOnly(),
		users:    1,
		settled:  make(chan struct{}),
		gone:     make(chan struct{}),
	}
	ds.all = append(ds.all, d)
	return d, firstUser, nil
}

// bring attaches a disk for all who have joined or will.
func (ds *disks) bring(ctx context.Context, m diskMachine, d *disk, path string) (*disk, error) {
	d.err = d.attach(ctx, m, path)
	if d.err != nil {
		ds.drop(d)
	}
	close(d.settled)
	if d.err != nil {
		return nil, d.err
	}
	return d, nil
}

// drop takes a disk out, so that the next who uses the device gets another.
func (ds *disks) drop(d *disk) {
	ds.mu.Lock()
	defer ds.mu.Unlock()
	ds.all = slices.DeleteFunc(ds.all, func(other *disk) bool { return other == d })
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
	ds.mu.Unlock()
	if !last {
		return nil
	}
	defer func() {
		ds.drop(d)
		close(d.gone)
	}()
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
