package sandbox

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/hyperhq/hyper/virtcontainers"
)

// idMaps are user namespaces by the mappings that they are made for: the kernel takes
// the mapping of a mount from one. A container's mounts mostly have the same.
type idMaps struct{ made map[string]*os.File }

// apply gives the files of a mount, which nobody sees yet, other owners.
func (m *idMaps) apply(tree int, ids *virtcontainers.IDMap) error {
	namespace, err := m.namespace(mapText(ids.UIDs), mapText(ids.GIDs))
	if err != nil {
		return err
	}
	flags := uint(unix.AT_EMPTY_PATH)
	if ids.Recursive {
		flags |= unix.AT_RECURSIVE
	}
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(namespace.Fd())}
	err = unix.MountSetattr(tree, "", flags, &attr)
	if errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("the file system cannot do that on this kernel: %w: %w", err, errdefs.ErrNotImplemented)
	}
	return err
}

func (m *idMaps) namespace(uids, gids string) (*os.File, error) {
	key := uids + " " + gids
	if f := m.made[key]; f != nil {
		return f, nil
	}
	f, err := mount.GetUsernsFD(uids, gids)
	if err != nil {
		return nil, fmt.Errorf("making a user namespace of uids %s, gids %s: %w", uids, gids, err)
	}
	if m.made == nil {
		m.made = make(map[string]*os.File)
	}
	m.made[key] = f
	return f, nil
}

func (m *idMaps) close() {
	for _, f := range m.made {
		f.Close()
	}
}

// mapText is a mapping in containerd's form.
func mapText(list []specs.LinuxIDMapping) string {
	var all []string
	for _, m := range list {
		all = append(all, fmt.Sprintf("%d:%d:%d", m.ContainerID, m.HostID, m.Size))
	}
	return strings.Join(all, ",")
}
