package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/hyperhq/hyper/virtcontainers"
)

// share is the directory that the guest sees: one directory per container in
// it, in which the container's mounts appear.
//
// It is a mount of its own with shared propagation, so that what is mounted
// below it later reaches the file system daemon's mount namespace. And it is read-only,
// but for what is mounted in it: a guest that could move a mount point away, and put a
// link in its place, would choose where the host mounts and what it removes.
type share struct {
	dir string
	// points is what is mounted at dir: where the host, and it alone, makes and removes
	// the mount points.
	points string
}

func newShare(dir string) (*share, error) {
	s := &share{dir: dir, points: dir + ".points"}
	for _, d := range []string{s.dir, s.points} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return nil, fmt.Errorf("making the sandbox's share: %w", err)
		}
	}
	if err := (&mount.Mount{Type: "bind", Source: s.points, Options: []string{"bind", "ro"}}).Mount(dir); err != nil {
		return nil, fmt.Errorf("making %s a mount: %w", dir, errors.Join(err, mount.UnmountAll(dir, unix.MNT_DETACH)))
	}
	if err := unix.Mount("", dir, "", unix.MS_SHARED, ""); err != nil {
		unix.Unmount(dir, unix.MNT_DETACH)
		return nil, fmt.Errorf("sharing the mounts of %s: %w", dir, err)
	}
	return s, nil
}

// remove takes the share away with all that is mounted in it.
func (s *share) remove() error {
	if err := detach(s.dir); err != nil {
		return fmt.Errorf("unmounting the sandbox's share: %w", err)
	}
	for _, d := range []string{s.dir, s.points} {
		if err := os.Remove(d); err != nil && !os.IsNotExist(err) {
			return fmt.Errorf("removing the sandbox's share: %w", err)
		}
	}
	return nil
}

// containerDir is a container's place on the host, guestDir in the guest, and pointsDir
// where its mount points are made.
func (s *share) containerDir(place string) string { return filepath.Join(s.dir, place) }
func (s *share) pointsDir(place string) string    { return filepath.Join(s.points, place) }
func guestDir(place string) string                { return filepath.Join(guestShare, place) }

// add makes a container's directory and its mounts. When it fails nothing is
// left behind.
func (s *share) add(place string, mounts []virtcontainers.HostMount) (err error) {
	if err := os.Mkdir(s.pointsDir(place), 0o755); err != nil {
		return fmt.Errorf("making the container's directory: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.drop(place))
		}
	}()
	var maps idMaps
	defer maps.close()
	for _, m := range mounts {
		if err := makeTarget(m, filepath.Join(s.pointsDir(place), m.Target)); err != nil {
			return err
		}
		if err := makeMount(m, filepath.Join(s.containerDir(place), m.Target), &maps); err != nil {
			return err
		}
	}
	return nil
}

// drop undoes add. It may be called again.
func (s *share) drop(place string) error {
	points, err := mountPoints(s.pointsDir(place))
	if err != nil {
		return fmt.Errorf("unmounting the container's files: %w", err)
	}
	for _, point := range points {
		if err := detach(filepath.Join(s.containerDir(place), point)); err != nil {
			return fmt.Errorf("unmounting the container's files: %w", err)
		}
	}
	return removeMountPoints(s.pointsDir(place))
}

// detach unmounts what is mounted at a path, with all that is mounted in it. Only the path
// itself is looked up: below it the guest may put links in the place of directories, and
// would choose what is unmounted by names that the kernel lists.
func detach(path string) error {
	for {
		err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
			return nil // nothing is, or no more
		}
		if err != nil {
			return &os.PathError{Op: "unmount", Path: path, Err: err}
		}
	}
}

// mountPoints are those in a container's directory: rootfs and what is in mounts and hooks.
func mountPoints(dir string) ([]string, error) {
	points := []string{virtcontainers.RootfsTarget}
	for _, group := range virtcontainers.MountGroups() {
		entries, err := os.ReadDir(filepath.Join(dir, group))
		if err != nil && !os.IsNotExist(err) {
			return nil, err
		}
		for _, e := range entries {
			points = append(points, filepath.Join(group, e.Name()))
		}
	}
	return points, nil
}

// removeMountPoints removes a container's directory. It enters no mount point and removes
// nothing that has content, so that a mount that is still there is an error and
// not somebody's data gone.
func removeMountPoints(dir string) error {
	points, err := mountPoints(dir)
	if err != nil {
		return fmt.Errorf("removing mount points: %w", err)
	}
	for _, path := range append(append(points, virtcontainers.MountGroups()...), "") {
		if err := os.Remove(filepath.Join(dir, path)); err != nil && !os.IsNotExist(err) {
			return fmt.Errorf("removing a mount point: %w", err)
		}
	}
	return nil
}

func makeMount(m virtcontainers.HostMount, target string, maps *idMaps) error {
	if m.Type == "bind" && (m.Private || m.ReadOnly || !m.IDs.IsZero()) {
		err := bindPrepared(m, target, maps)
		if !errors.Is(err, unix.ENOSYS) {
			return err
		}
		// A host before Linux 5.12 cannot. What is only private is bound as others are.
		if m.ReadOnly || !m.IDs.IsZero() {
			return fmt.Errorf("%w: the host needs Linux 5.12", err)
		}
	}
	options := m.Options
	if m.ReadOnly {
		options = append(options[:len(options):len(options)], "ro")
	}
	if err := (&mount.Mount{Type: m.Type, Source: m.Source, Options: options}).Mount(target); err != nil {
		return fmt.Errorf("mounting %s (%s) for the container: %w", m.Source, m.Type, err)
	}
	return nil
}

// makeTarget makes what a mount covers: a file for a file, else a directory.
func makeTarget(m virtcontainers.HostMount, target string) error {
	dir := target
	if m.Type == "bind" {
		info, err := os.Stat(m.Source)
		if err != nil {
			return fmt.Errorf("mount source: %w: %w", err, errdefs.ErrNotFound)
		}
		if !info.IsDir() {
			dir = filepath.Dir(target)
		}
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("making a mount point: %w", err)
	}
	if dir == target {
		return nil
	}
	f, err := os.OpenFile(target, os.O_CREATE|os.O_RDONLY, 0o600)
	if err != nil {
		return fmt.Errorf("making a mount point: %w", err)
	}
	return f.Close()
}

// mountRootfs mounts what containerd gives as the root filesystem at the place
// in the bundle where the OCI configuration expects it.
func mountRootfs(mounts []*types.Mount, target string) error {
	if len(mounts) == 0 {
		return nil
	}
	if err := os.Mkdir(target, 0o711); err != nil && !os.IsExist(err) {
		return fmt.Errorf("making the rootfs mount point: %w", err)
	}
	if err := mount.All(mount.FromProto(mounts), target); err != nil {
		return fmt.Errorf("mounting the root filesystem: %w", errors.Join(err, unmountRootfs(target)))
	}
	return nil
}

func unmountRootfs(target string) error {
	if err := mount.UnmountAll(target, unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmounting the root filesystem: %w", err)
	}
	return nil
}
