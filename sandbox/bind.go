package sandbox

import (
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/hyperhq/hyper/virtcontainers"
)

// bindPrepared binds a source by a mount that is what it is to be before anybody sees
// it: private, read-only, or with other owners of its files.
//
// What is put into the share is copied at once to the file system daemon's mounts, and the
// copy keeps what the mount was then: tied to the host's, or writable.
func bindPrepared(m virtcontainers.HostMount, target string, maps *idMaps) error {
	flags := uint(unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC)
	recursive := uint(0)
	if slices.Contains(m.Options, "rbind") {
		recursive = unix.AT_RECURSIVE
	}
	tree, err := unix.OpenTree(unix.AT_FDCWD, m.Source, flags|recursive)
	if err != nil {
		return fmt.Errorf("binding %s for the container: %w", m.Source, err)
	}
	defer unix.Close(tree)
	if m.Private {
		private := unix.MountAttr{Propagation: unix.MS_PRIVATE}
		if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &private); err != nil {
			return fmt.Errorf("making the bind of %s private: %w", m.Source, err)
		}
	}
	if !m.IDs.IsZero() {
		if err := maps.apply(tree, m.IDs); err != nil {
			return fmt.Errorf("mapping the ids of the bind of %s: %w", m.Source, err)
		}
	}
	if m.ReadOnly {
		if err := makeReadOnly(tree); err != nil {
			return fmt.Errorf("making the bind of %s read-only: %w", m.Source, err)
		}
	}
	if err := unix.MoveMount(tree, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("binding %s for the container: %w", m.Source, err)
	}
	return nil
}

// makeReadOnly makes a tree of mounts read-only: to the guest they are one, and read-only
// for the container.
func makeReadOnly(tree int) error {
	readOnly := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
	return unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &readOnly)
}
