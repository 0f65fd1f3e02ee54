package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/containerd/errdefs"

	agentv1 "github.com/hyperhq/hyper/proto/hyper/agent/v1"
)

const (
	// memoryDir has a tmpfs for each volume that is memory of the guest.
	memoryDir        = "/run/hyper/memory"
	maxMemoryVolumes = 64 // of a container, and of the guest
	maxMemoryID      = 64
)

// bindMemory gives a container parts of volumes that are memory of the guest, which it
// makes if they are not there. What it has bound goes by remove, also when it fails;
// the volumes stay.
func (v *volumes) bindMemory(container string, list []*agentv1.MemoryVolume) error {
	if len(list) > maxMemoryVolumes {
		return fmt.Errorf("%d volumes in memory, at most %d: %w", len(list), maxMemoryVolumes, errdefs.ErrInvalidArgument)
	}
	total, err := totalMemory()
	if err != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, m := range list {
		if err := validateMemoryVolume(container, m); err != nil {
			return err
		}
		if err := v.holdMemoryLocked(m, memorySize(m.GetSize(), total)); err != nil {
			return err
		}
		if err := v.bindPartLocked(container, m); err != nil {
			return fmt.Errorf("binding %q of the volume in memory %s: %w", m.GetPath(), m.GetId(), err)
		}
	}
	return nil
}

func validateMemoryVolume(container string, m *agentv1.MemoryVolume) error {
	if id := m.GetId(); len(id) > maxMemoryID || !isAlphanumeric(id) {
		return fmt.Errorf("volume in memory %.80q: want an id of 1 to %d letters and digits: %w", id, maxMemoryID, errdefs.ErrInvalidArgument)
	}
	if p := m.GetPath(); p != "" && (!filepath.IsLocal(p) || len(p) >= unix.PathMax || strings.ContainsRune(p, 0)) {
		return fmt.Errorf("path %.140q leads out of the volume: %w", p, errdefs.ErrInvalidArgument)
	}
	return validateTarget(container, m.GetTarget())
}

// memorySize is what a volume may hold. One that is larger than the memory that there
// is would end the guest before it is full.
func memorySize(want, total uint64) uint64 {
	if want == 0 || want > total {
		return total / 2
	}
	return want
}

func totalMemory() (uint64, error) {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return 0, fmt.Errorf("looking at the guest's memory: %w", err)
	}
	return info.Totalram * uint64(info.Unit), nil
}

// holdMemoryLocked makes a volume, or makes one larger that is there.
func (v *volumes) holdMemoryLocked(m *agentv1.MemoryVolume, size uint64) error {
	dir := filepath.Join(memoryDir, m.GetId())
	option := fmt.Sprintf("size=%d", size)
	before, there := v.memory[m.GetId()]
	switch {
	case there && size <= before:
		return nil
	case there:
		if err := unix.Mount("", dir, "", unix.MS_REMOUNT, option); err != nil {
			return fmt.Errorf("giving the volume in memory %s %d bytes: %w", m.GetId(), size, err)
		}
	case len(v.memory) >= maxMemoryVolumes:
		return fmt.Errorf("the guest has %d volumes in memory: %w", maxMemoryVolumes, errdefs.ErrResourceExhausted)
	default:
		root := m.GetRoot()
		err := mount(&agentv1.Mount{Type: "tmpfs", Source: "memory", Target: dir, Options: []string{
			option, fmt.Sprintf("mode=%#o,uid=%d,gid=%d", root.GetMode()&0o7777, root.GetUid(), root.GetGid()),
		}})
		if err != nil {
			return err
		}
	}
	v.memory[m.GetId()] = size
	return nil
}

// bindPartLocked binds a directory of a volume. The pod's containers may change the
// volume at the same time: what is bound is what was opened, and no link leads out.
func (v *volumes) bindPartLocked(container string, m *agentv1.MemoryVolume) error {
	root, err := os.OpenRoot(filepath.Join(memoryDir, m.GetId()))
	if err != nil {
		return err
	}
	defer root.Close()
	part, err := openPartOf(root, m)
	if err != nil {
		return err
	}
	defer part.Close()
	info, err := part.Stat()
	if err != nil {
		return err
	}
	if err := makeBindTarget(m.GetTarget(), info.IsDir()); err != nil {
		return err
	}
	tree, err := unix.OpenTree(int(part.Fd()), "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)
	if err != nil {
		return err
	}
	defer unix.Close(tree)
	if err := unix.MoveMount(tree, "", unix.AT_FDCWD, m.GetTarget(), unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return err
	}
	v.owner[m.GetTarget()] = container
	return nil
}

// openPartOf opens a part of a volume, which it makes if nothing is there.
func openPartOf(root *os.Root, m *agentv1.MemoryVolume) (*os.File, error) {
	if m.GetPath() == "" {
		return root.Open(".")
	}
	info, err := root.Stat(m.GetPath())
	if errors.Is(err, fs.ErrNotExist) {
		if err := makePart(root, m); err != nil {
			return nil, err
		}
		return root.Open(m.GetPath())
	}
	if err != nil {
		return nil, err
	}
	if !info.IsDir() && !info.Mode().IsRegular() {
		// To open it may do more than one wants.
		return nil, fmt.Errorf("it is neither a directory nor a file: %w", errdefs.ErrFailedPrecondition)
	}
	return root.OpenFile(m.GetPath(), os.O_RDONLY|unix.O_NONBLOCK, 0)
}

func makePart(root *os.Root, m *agentv1.MemoryVolume) error {
	if err := root.MkdirAll(m.GetPath(), 0o755); err != nil {
		return err
	}
	part := m.GetPart()
	if err := root.Chown(m.GetPath(), int(part.GetUid()), int(part.GetGid())); err != nil {
		return err
	}
	return root.Chmod(m.GetPath(), fileMode(part.GetMode()))
}

func makeBindTarget(target string, dir bool) error {
	if dir {
		return os.MkdirAll(target, 0o755)
	}
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		return err
	}
	return os.WriteFile(target, nil, 0o600)
}
