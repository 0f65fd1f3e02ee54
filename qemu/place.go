package qemu

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/hyperhq/hyper/qemu/qmp"
	"github.com/hyperhq/hyper/virtcontainers"
)

// A place for a disk is a virtio-blk device that a template has, over a node of nothing
// but zeros. A clone's disk is put in by exchanging what is below its node, of which the
// guest is told nothing: it has looked at the place before it was saved, keeps nothing
// of what was there because nobody has it open, and knows its size.

// maxPlaces leaves most of the bus to what is plugged in.
const maxPlaces = 4

// checkPlaces refuses places that cannot be.
func checkPlaces(places []virtcontainers.DiskPlace) error {
	if len(places) > maxPlaces {
		return fmt.Errorf("%d places for disks: use at most %d: %w", len(places), maxPlaces, errdefs.ErrInvalidArgument)
	}
	for i, place := range places {
		switch {
		case !isID(place.ID, diskIDRoom):
			return fmt.Errorf("place %d for a disk: an id is a letter, then letters and digits, %d in all at most: %w", i, diskIDRoom, errdefs.ErrInvalidArgument)
		case place.Bytes == 0 || place.Bytes%sectorSize != 0 || place.Bytes > math.MaxInt64:
			return fmt.Errorf("place %q for a disk: %d bytes are not whole sectors of %d: %w", place.ID, place.Bytes, sectorSize, errdefs.ErrInvalidArgument)
		}
	}
	if err := new(plugs).reserve(places); err != nil {
		return fmt.Errorf("%v: %w", err, errdefs.ErrInvalidArgument)
	}
	return nil
}

// placeArguments are the devices of places, which take the first slots of the bus.
func placeArguments(places []virtcontainers.DiskPlace) []string {
	var args []string
	var all plugs
	for _, place := range places {
		p, err := all.take(diskPlug(place.ID))
		if err != nil {
			break // they were checked, so that it does not come to this
		}
		access := "read-only=off"
		if place.ReadOnly {
			access = "read-only=on"
		}
		args = append(args,
			"-blockdev", fmt.Sprintf("null-co,node-name=%s,size=%d,read-zeroes=on,%s", p.emptyNode(), place.Bytes, access),
			"-blockdev", fmt.Sprintf("raw,node-name=%s,file=%s,discard=unmap,%s", p.device, p.emptyNode(), access),
			"-device", fmt.Sprintf("virtio-blk-pci,id=%s,drive=%[1]s,serial=%s,bus=%s,addr=%s,disable-legacy=on,rerror=report,werror=report",
				p.device, place.ID, hotplugBus, p.address()),
		)
	}
	return args
}

// emptyNode is the name of what a place holds first, and fileNode of what it holds then.
// QEMU has room for 31 letters.
func (p *plug) emptyNode() string { return "e-" + p.device }
func (p *plug) fileNode() string  { return "f-" + p.device }

// reserve takes the plugs of places, of a machine that has no other yet.
func (ps *plugs) reserve(places []virtcontainers.DiskPlace) error {
	for _, place := range places {
		p, err := ps.take(diskPlug(place.ID))
		if err != nil {
			return fmt.Errorf("place %q for a disk: %w", place.ID, err)
		}
		p.place, p.vacant, p.backed = &place, true, true
		p.leave()
	}
	return nil
}

// findPlace waits for the turn with a place that is vacant, which is then the caller's.
// It gives nil if there is none of that id.
func (m *machine) findPlace(ctx context.Context, id string) (*plug, error) {
	p, err := m.plugs.find(ctx, diskPlug(id))
	if errdefs.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if !p.vacant {
		p.leave()
		return nil, nil // plugging it in fails as it should
	}
	return p, nil
}

// fill puts a disk into a vacant place, which stays as it was if that fails.
func (m *machine) fill(ctx context.Context, p *plug, disk virtcontainers.Disk, device bool) error {
	if err := checkFill(*p.place, disk); err != nil {
		return err
	}
	files := qmp.FileSet(p.number)
	err := m.monitor.AddFile(ctx, files, disk.File)
	if err == nil {
		err = m.monitor.ReplaceFile(ctx, p.device, qmp.BlockFile{Node: p.fileNode(), Files: files, Device: device, ReadOnly: disk.ReadOnly})
	}
	if err == nil {
		p.vacant = false
		return nil
	}
	undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	if left := m.dropFile(undo, p); left != nil {
		return fmt.Errorf("%w; and then to undo it: %w", err, left)
	}
	return err
}

// checkFill refuses a disk that is not what the guest knows the place to be.
func checkFill(place virtcontainers.DiskPlace, disk virtcontainers.Disk) error {
	var size int64
	err := withDescriptor(disk.File, func(fd int) (err error) {
		size, err = unix.Seek(fd, 0, io.SeekEnd) // of a block device too; QEMU reads by position
		return err
	})
	switch bytes := uint64(size); {
	case err != nil:
		return fmt.Errorf("find the size of its file: %w", err)
	case disk.ReadOnly != place.ReadOnly:
		return fmt.Errorf("the place for it has read-only %v: %w", place.ReadOnly, errdefs.ErrInvalidArgument)
	case bytes > place.Bytes, bytes < place.Bytes && !place.ReadOnly:
		return fmt.Errorf("it has %d bytes, and the place for it %d: %w", bytes, place.Bytes, errdefs.ErrInvalidArgument)
	}
	return nil
}

// dropFile takes away what a place was filled with, if anything, once nothing uses it.
func (m *machine) dropFile(ctx context.Context, p *plug) error {
	// QEMU refuses what was never made or has been taken away before, which is as good.
	var refused *qmp.Error
	if err := m.monitor.DelBlock(ctx, p.fileNode()); err != nil && !errors.As(err, &refused) {
		return err
	}
	if err := m.monitor.RemoveFile(ctx, qmp.FileSet(p.number)); err != nil && !errors.As(err, &refused) {
		return err
	}
	return nil
}
