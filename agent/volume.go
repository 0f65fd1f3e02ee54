package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/containerd/errdefs"

	agentv1 "github.com/hyperhq/hyper/proto/hyper/agent/v1"
)

// maxVolumes is how many volumes containers may have together.
const maxVolumes = 4096

// volumes are the tmpfs in which the host keeps copies of its own volumes, and those
// that are memory of the guest.
type volumes struct {
	mu     sync.Mutex
	owner  map[string]string // container by target
	memory map[string]uint64 // size in bytes by id
}

func newVolumes() *volumes {
	return &volumes{owner: map[string]string{}, memory: map[string]uint64{}}
}

// change makes changes in a volume, which it makes if that is asked for. The
// container's processes may change it at the same time: no path is followed out
// of it.
func (v *volumes) change(req *agentv1.ChangeVolumeRequest) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if req.GetSize() != 0 {
		if err := v.makeLocked(req.GetContainerId(), req.GetTarget(), req.GetSize()); err != nil {
			return err
		}
	}
	if owner, ok := v.owner[req.GetTarget()]; !ok || owner != req.GetContainerId() {
		return fmt.Errorf("volume %q of container %q: %w", req.GetTarget(), req.GetContainerId(), errdefs.ErrNotFound)
	}
	root, err := os.OpenRoot(req.GetTarget())
	if err != nil {
		return fmt.Errorf("opening volume %s: %w", req.GetTarget(), err)
	}
	defer root.Close()
	for _, change := range req.GetChanges() {
		if err := changeOne(root, change); err != nil {
			return fmt.Errorf("volume %s: %w", req.GetTarget(), err)
		}
	}
	return nil
}

// makeLocked makes a volume that is empty.
func (v *volumes) makeLocked(container, target string, size uint64) error {
	if err := validateTarget(container, target); err != nil {
		return err
	}
	if _, there := v.owner[target]; there {
		if err := unmount(target); err != nil {
			return err
		}
		delete(v.owner, target)
	}
	if len(v.owner) >= maxVolumes {
		return fmt.Errorf("the guest has %d volumes: %w", maxVolumes, errdefs.ErrResourceExhausted)
	}
	err := mount(&agentv1.Mount{
		Type: "tmpfs", Source: "volume", Target: target,
		Options: []string{"nosuid", "nodev", "mode=0755", fmt.Sprintf("size=%d", size)},
	})
	if err != nil {
		return err
	}
	v.owner[target] = container
	return nil
}

func validateTarget(container, target string) error {
	if err := validateID("container id", container); err != nil {
		return err
	}
	home := filepath.Join(volumesDir, container) + "/"
	if filepath.Clean(target) != target || !strings.HasPrefix(target, home) {
		return fmt.Errorf("volume at %q: want a clean path below %s: %w", target, home, errdefs.ErrInvalidArgument)
	}
	return nil
}

// remove removes all volumes of a container. It can be tried again.
func (v *volumes) remove(container string) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	for target, owner := range v.owner {
		if owner != container {
			continue
		}
		if err := unmount(target); err != nil {
			return err
		}
		delete(v.owner, target)
	}
	if err := os.RemoveAll(filepath.Join(volumesDir, container)); err != nil {
		return fmt.Errorf("removing the volumes of container %s: %w", container, err)
	}
	return nil
}

func changeOne(root *os.Root, c *agentv1.VolumeChange) error {
	if !filepath.IsLocal(c.GetPath()) {
		return fmt.Errorf("path %q leads out of the volume: %w", c.GetPath(), errdefs.ErrInvalidArgument)
	}
	switch c.GetKind() {
	case agentv1.VolumeChange_DIRECTORY:
		if err := root.Mkdir(c.GetPath(), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		return setAttributes(root, c)
	case agentv1.VolumeChange_FILE:
		return writeAt(root, c)
	case agentv1.VolumeChange_LINK:
		if err := makeRoom(root, c.GetPath()); err != nil {
			return err
		}
		if err := root.Symlink(c.GetTarget(), c.GetPath()); err != nil {
			return err
		}
		return root.Lchown(c.GetPath(), int(c.GetUid()), int(c.GetGid()))
	case agentv1.VolumeChange_RENAME:
		if !filepath.IsLocal(c.GetTarget()) {
			return fmt.Errorf("path %q leads out of the volume: %w", c.GetTarget(), errdefs.ErrInvalidArgument)
		}
		return root.Rename(c.GetPath(), c.GetTarget())
	case agentv1.VolumeChange_REMOVE:
		return root.RemoveAll(c.GetPath())
	}
	return fmt.Errorf("unknown kind of change %d: %w", c.GetKind(), errdefs.ErrInvalidArgument)
}

// makeRoom removes what has a name, which may be of a call that failed.
func makeRoom(root *os.Root, name string) error {
	if err := root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// writeAt writes a part of a file, and gives it its attributes. The first part
// makes the file.
func writeAt(root *os.Root, c *agentv1.VolumeChange) error {
	f, err := openPart(root, c.GetPath(), c.GetOffset() == 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.WriteAt(c.GetData(), c.GetOffset()); err != nil {
		return err
	}
	// In this order: a change of owner clears bits of the mode.
	if err := f.Chown(int(c.GetUid()), int(c.GetGid())); err != nil {
		return err
	}
	if err := f.Chmod(fileMode(c.GetMode())); err != nil {
		return err
	}
	m := c.GetModified()
	if !m.IsValid() {
		return nil
	}
	at := unix.NsecToTimeval(m.AsTime().UnixNano())
	return unix.Futimes(int(f.Fd()), []unix.Timeval{at, at})
}

func openPart(root *os.Root, name string, first bool) (*os.File, error) {
	if !first {
		return root.OpenFile(name, os.O_WRONLY, 0)
	}
	const flags = os.O_WRONLY | os.O_CREATE | os.O_EXCL
	f, err := root.OpenFile(name, flags, 0o600)
	if !errors.Is(err, fs.ErrExist) {
		return f, err
	}
	if err := makeRoom(root, name); err != nil {
		return nil, err
	}
	return root.OpenFile(name, flags, 0o600)
}

// setAttributes gives a directory its attributes.
func setAttributes(root *os.Root, c *agentv1.VolumeChange) error {
	// In the same order as those of a file.
	if err := root.Chown(c.GetPath(), int(c.GetUid()), int(c.GetGid())); err != nil {
		return err
	}
	if err := root.Chmod(c.GetPath(), fileMode(c.GetMode())); err != nil {
		return err
	}
	if m := c.GetModified(); m.IsValid() {
		return root.Chtimes(c.GetPath(), m.AsTime(), m.AsTime())
	}
	return nil
}

// fileMode translates the bits of chmod(2).
func fileMode(bits uint32) fs.FileMode {
	mode := fs.FileMode(bits & 0o777)
	for bit, flag := range map[uint32]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if bits&bit != 0 {
			mode |= flag
		}
	}
	return mode
}
