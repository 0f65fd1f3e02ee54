package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/containerd/errdefs"

	agentv1 "github.com/hyperhq/hyper/proto/hyper/agent/v1"
)

const (
	maxMounts    = 256
	maxMountData = 4096 // a page: what mount(2) takes
)

// mountFlag translates an option of mount(8) that is a flag of mount(2).
func mountFlag(option string) (set, clear uintptr, ok bool) {
	switch option {
	case "defaults", "rw":
		return 0, unix.MS_RDONLY, true
	case "ro":
		return unix.MS_RDONLY, 0, true
	case "nosuid":
		return unix.MS_NOSUID, 0, true
	case "nodev":
		return unix.MS_NODEV, 0, true
	case "noexec":
		return unix.MS_NOEXEC, 0, true
	case "sync":
		return unix.MS_SYNCHRONOUS, 0, true
	case "dirsync":
		return unix.MS_DIRSYNC, 0, true
	case "noatime":
		return unix.MS_NOATIME, 0, true
	case "nodiratime":
		return unix.MS_NODIRATIME, 0, true
	case "relatime":
		return unix.MS_RELATIME, 0, true
	case "strictatime":
		return unix.MS_STRICTATIME, 0, true
	case "bind":
		return unix.MS_BIND, 0, true
	case "rbind":
		return unix.MS_BIND | unix.MS_REC, 0, true
	}
	return 0, 0, false
}

// mountArgs divides the options of mount(8) into the flags and the data of
// mount(2).
func mountArgs(options []string) (flags uintptr, data string, err error) {
	var rest []string
	for _, o := range options {
		set, clear, ok := mountFlag(o)
		if !ok {
			rest = append(rest, o)
		}
		flags = flags&^clear | set
	}
	data = strings.Join(rest, ",")
	if len(data) >= maxMountData || strings.ContainsRune(data, 0) {
		return 0, "", fmt.Errorf("mount options of %d bytes: %w", len(data), errdefs.ErrInvalidArgument)
	}
	return flags, data, nil
}

// mount makes a mount that the host asked for, and its target if it is missing.
func mount(m *agentv1.Mount) error {
	target := m.GetTarget()
	if !filepath.IsAbs(target) || filepath.Clean(target) != target || target == "/" {
		return fmt.Errorf("mount target %q: want a clean absolute path: %w", target, errdefs.ErrInvalidArgument)
	}
	flags, data, err := mountArgs(m.GetOptions())
	if err != nil {
		return err
	}
	if err := os.MkdirAll(target, 0o755); err != nil {
		return fmt.Errorf("making the mount target %s: %w", target, err)
	}
	if err := unix.Mount(m.GetSource(), target, m.GetType(), flags, data); err != nil {
		return fmt.Errorf("mounting %s %q on %s: %w", m.GetType(), m.GetSource(), target, err)
	}
	if flags&unix.MS_BIND != 0 && flags&^(unix.MS_BIND|unix.MS_REC) != 0 {
		// The kernel heeds the flags of a bind mount only when it is remounted.
		if err := unix.Mount("", target, "", flags|unix.MS_REMOUNT, ""); err != nil {
			unmount(target)
			return fmt.Errorf("setting the options of the bind mount %s: %w", target, err)
		}
	}
	return nil
}

// unmount detaches what is mounted on target, however busy.
func unmount(target string) error {
	err := unix.Unmount(target, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if err == nil || err == unix.EINVAL || err == unix.ENOENT {
		return nil // or it is none any more
	}
	return fmt.Errorf("unmounting %s: %w", target, err)
}

// mountAll makes the mounts in order, all or none, and returns what undoes them.
func mountAll(mounts []*agentv1.Mount) (targets []string, err error) {
	if len(mounts) > maxMounts {
		return nil, fmt.Errorf("%d mounts, at most %d: %w", len(mounts), maxMounts, errdefs.ErrInvalidArgument)
	}
	for _, m := range mounts {
		if err := mount(m); err != nil {
			_ = unmountAll(targets)
			return nil, err
		}
		targets = append(targets, m.GetTarget())
	}
	return targets, nil
}

// unmountAll undoes mounts in reverse order. It tries them all, and returns the
// first error.
func unmountAll(targets []string) (first error) {
	for i := len(targets) - 1; i >= 0; i-- {
		if err := unmount(targets[i]); err != nil && first == nil {
			first = err
		}
	}
	return first
}
