package qemu

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/hyperhq/hyper/qemu/qmp"
	"github.com/hyperhq/hyper/virtcontainers"
)

// sectorSize is what a disk's size is a multiple of, in bytes.
const sectorSize = 512

// AttachDisk implements virtcontainers.VM.
func (m *machine) AttachDisk(ctx context.Context, disk virtcontainers.Disk) error {
	err := m.checkHotplug(ctx)
	var device bool
	if err == nil {
		device, err = checkDisk(disk)
	}
	if err == nil {
		err = m.orGone(m.plugDisk(ctx, disk, device))
	}
	if err != nil {
		return fmt.Errorf("attach disk %q to VM %q: %w", disk.ID, m.id, err)
	}
	return nil
}

// DetachDisk implements virtcontainers.VM. When the guest has not let go in time it
// may be called again, and the id is taken until then.
func (m *machine) DetachDisk(ctx context.Context, id string) error {
	err := m.checkHotplug(ctx)
	if err == nil {
		err = m.orGone(m.unplugDisk(ctx, id))
	}
	if err != nil {
		return fmt.Errorf("detach disk %q from VM %q: %w", id, m.id, err)
	}
	return nil
}

// diskIDRoom is how long a disk's id may be: the room for a serial number in
// virtio-blk.
const diskIDRoom = 20

// checkDisk refuses a disk that cannot be, and says whether it is a block device.
func checkDisk(disk virtcontainers.Disk) (device bool, err error) {
	if !isID(disk.ID, diskIDRoom) {
		return false, fmt.Errorf("an id is a letter, then letters and digits, %d in all at most: %w", diskIDRoom, errdefs.ErrInvalidArgument)
	}
	err = withDescriptor(disk.File, func(fd int) (err error) {
		device, err = checkDiskFile(fd, disk.ReadOnly)
		return err
	})
	if err != nil {
		return false, fmt.Errorf("its file cannot be a disk: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	return device, nil
}

func checkDiskFile(fd int, readOnly bool) (device bool, err error) {
	// QEMU takes a descriptor for just what it was opened for.
	want, words := unix.O_RDWR, "reading and writing"
	if readOnly {
		want, words = unix.O_RDONLY, "reading only"
	}
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	if err != nil {
		return false, err
	}
	if flags&unix.O_ACCMODE != want {
		return false, fmt.Errorf("it is not open for %s", words)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return false, err
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFBLK:
		return true, nil
	case unix.S_IFREG:
		if st.Size == 0 || st.Size%sectorSize != 0 {
			return false, fmt.Errorf("its size of %d bytes is not that of whole sectors of %d", st.Size, sectorSize)
		}
		return false, nil
	default:
		return false, errors.New("it is neither a regular file nor a block device")
	}
}

// diskPlug is the id of a disk's plug.
func diskPlug(id string) string { return "disk-" + id }

// diskArguments are those of device_add.
type diskArguments struct {
	Driver        string `json:"driver"`
	ID            string `json:"id"`
	Drive         string `json:"drive"`
	Serial        string `json:"serial"`
	Bus           string `json:"bus"`
	Addr          string `json:"addr"`
	DisableLegacy string `json:"disable-legacy"` // as for cards
	// The guest is told of errors. Or QEMU stops it when the host's disk is full.
	OnReadError  string `json:"rerror"`
	OnWriteError string `json:"werror"`
}

func (m *machine) plugDisk(ctx context.Context, disk virtcontainers.Disk, device bool) error {
	place, err := m.findPlace(ctx, disk.ID)
	if err != nil {
		return err
	}
	if place != nil {
		defer place.leave()
		return m.fill(ctx, place, disk, device)
	}
	p, err := m.plugs.take(diskPlug(disk.ID))
	if err != nil {
		return err
	}
	defer p.leave()
	if err = m.addDisk(ctx, p, disk, device); err == nil {
		return nil
	}
	undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	if left := m.releaseDisk(undo, p); left != nil {
		// The id stays taken: who detaches it tries again.
		return fmt.Errorf("%w; and then to undo it: %w", err, left)
	}
	return err
}

func (m *machine) addDisk(ctx context.Context, p *plug, disk virtcontainers.Disk, device bool) error {
	if err := m.monitor.AddFile(ctx, qmp.FileSet(p.number), disk.File); err != nil {
		return err
	}
	err := m.monitor.AddBlock(ctx, qmp.Block{
		Node:     p.device,
		Files:    qmp.FileSet(p.number),
		Device:   device,
		ReadOnly: disk.ReadOnly,
	})
	if err != nil {
		return err
	}
	p.backed = true
	return m.monitor.AddDevice(ctx, diskArguments{
		Driver:        "virtio-blk-pci",
		ID:            p.device,
		Drive:         p.device, // the host's side is named so too
		Serial:        disk.ID,
		Bus:           hotplugBus,
		Addr:          p.address(),
		DisableLegacy: "on",
		OnReadError:   "report",
		OnWriteError:  "report",
	})
}

func (m *machine) unplugDisk(ctx context.Context, id string) error {
	p, err := m.plugs.find(ctx, diskPlug(id))
	if err != nil {
		return err
	}
	defer p.leave()
	if p.vacant {
		return fmt.Errorf("there is only a place for it: %w", errdefs.ErrNotFound)
	}
	return m.releaseDisk(ctx, p)
}

// releaseDisk takes away what there is of a disk, in reverse order. It may be called
// again.
func (m *machine) releaseDisk(ctx context.Context, p *plug) error {
	if err := m.unplug(ctx, p); err != nil {
		return err
	}
	// QEMU refuses what was never made or has been taken away before, which is as good.
	var refused *qmp.Error
	if err := m.monitor.DelBlock(ctx, p.device); err != nil && (p.backed || !errors.As(err, &refused)) {
		return err
	}
	p.backed = false
	if p.place != nil {
		if err := m.dropFile(ctx, p); err != nil {
			return err
		}
	}
	if err := m.monitor.RemoveFile(ctx, qmp.FileSet(p.number)); err != nil && !errors.As(err, &refused) {
		return err
	}
	m.plugs.release(p)
	return nil
}
