package process

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/hyperhq/hyper/qemu/process/thread"
)

// Root is what a process finds of the host's files: an empty file system in a mount
// namespace of its own, in which some of them are at their places. Nothing can be
// written to it, and nothing in it runs as another user.
//
// What is mounted on the host is not mounted in that namespace: it is made from
// nothing, so that the process keeps no file system busy but those of its files.
type Root struct {
	// Start are absolute paths of files and directories that the process needs to
	// start, beside /proc, in which it finds itself alone. Settle takes them away.
	Start []string
	// Keep are those that it needs as long as it runs.
	Keep []string
}

// enter moves the calling thread to the root, and returns where its own Settle has
// something to take away. The thread can never be used for anything else: its
// goroutine must stay locked to it and end with it.
func (r *Root) enter() (passing []string, err error) {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return nil, fmt.Errorf("make a mount namespace: %w", err)
	}
	// Or the host would see what is mounted here.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return nil, fmt.Errorf("leave the host's mounts alone: %w", err)
	}
	dir, err := coverRoot()
	if err != nil {
		return nil, err
	}
	defer unix.Close(dir)
	// Now the host's files are at absolute paths and the new root's at relative ones.
	// The thread has a working directory and a mask of its own.
	if err := unix.Fchdir(dir); err != nil {
		return nil, fmt.Errorf("go to the new root: %w", err)
	}
	unix.Umask(0o022)
	if passing, err = r.fill(); err != nil {
		return nil, err
	}
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID}
	if err := unix.MountSetattr(dir, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &attr); err != nil {
		return nil, fmt.Errorf("make the new root read-only: %w", err)
	}
	return passing, leaveOldRoot()
}

// coverRoot mounts an empty file system over the root, which is still the thread's,
// and opens it.
func coverRoot() (dir int, err error) {
	fail := func(err error) (int, error) { return -1, fmt.Errorf("make a new root: %w", err) }
	fs, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return fail(err)
	}
	defer unix.Close(fs)
	if err := errors.Join(unix.FsconfigSetString(fs, "mode", "0755"), unix.FsconfigCreate(fs)); err != nil {
		return fail(err)
	}
	dir, err = unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOEXEC|unix.MOUNT_ATTR_NODEV)
	if err != nil {
		return fail(err)
	}
	if err := unix.MoveMount(dir, "", unix.AT_FDCWD, "/", unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		unix.Close(dir)
		return fail(err)
	}
	return dir, nil
}

// leaveOldRoot makes the working directory the root of the namespace, and lets go of
// all else that is in it.
func leaveOldRoot() error {
	// The old root is then on the new one, whose place it had.
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("change to the new root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("leave the old root: %w", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return fmt.Errorf("go to the new root: %w", err)
	}
	return nil
}

// fill puts into the new root, the working directory, what belongs there. What is kept
// comes first: that which passes may lie over it, and not the other way round.
func (r *Root) fill() (passing []string, err error) {
	var p places
	for _, path := range r.Keep {
		if err := p.show(path); err != nil {
			return nil, err
		}
	}
	kept := len(p.mounted)
	if err := p.proc(); err != nil {
		return nil, err
	}
	for _, path := range r.Start {
		if err := p.show(path); err != nil {
			return nil, err
		}
	}
	return p.mounted[kept:], nil
}

// places are paths of the host that are shown below the working directory.
type places struct {
	mounted []string
	links   []string
}

// proc mounts a /proc that shows a process itself and nothing of the kernel. To a
// process without privileges no other exists in it.
func (p *places) proc() error {
	const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	err := os.Mkdir("proc", 0o755)
	if err == nil {
		err = unix.Mount("proc", "proc", "proc", flags, "hidepid=invisible,subset=pid")
	}
	if err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	p.mounted = append(p.mounted, "/proc")
	return nil
}

// show shows a path, and if it is a symbolic link what that leads to. A path that does
// not exist is left out.
func (p *places) show(path string) error {
	if p.has(path) {
		return nil
	}
	info, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err == nil && info.Mode()&os.ModeSymlink != 0 {
		return p.showLink(path)
	}
	if err == nil {
		err = bind(path, info.IsDir())
	}
	if err != nil {
		return fmt.Errorf("show %s: %w", path, err)
	}
	p.mounted = append(p.mounted, path)
	return nil
}

func (p *places) showLink(path string) error {
	target, err := os.Readlink(path)
	if err == nil {
		err = os.MkdirAll(relative(filepath.Dir(path)), 0o755)
	}
	if err == nil {
		err = os.Symlink(target, relative(path))
	}
	if err != nil {
		return fmt.Errorf("show the link %s: %w", path, err)
	}
	p.links = append(p.links, path)
	resolved, err := filepath.EvalSymlinks(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("follow the link %s: %w", path, err)
	}
	return p.show(resolved)
}

// has says that a path is shown, as one of those below another: nothing may be made
// there, because it would be made on the host.
func (p *places) has(path string) bool {
	within := func(dir string) bool { return path == dir || strings.HasPrefix(path, dir+"/") }
	return slices.ContainsFunc(p.mounted, within) || slices.ContainsFunc(p.links, within)
}

// bind mounts a path of the host at the same place below the working directory.
func bind(path string, isDir bool) error {
	target := relative(path)
	if isDir {
		if err := os.MkdirAll(target, 0o755); err != nil {
			return err
		}
	} else {
		if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
			return err
		}
		f, err := os.OpenFile(target, os.O_CREATE|os.O_RDONLY, 0o644)
		if err != nil {
			return err
		}
		f.Close()
	}
	return unix.Mount(path, target, "", unix.MS_BIND|unix.MS_REC, "")
}

// relative is an absolute path from the root.
func relative(path string) string { return "." + filepath.Clean(path) }

// Settle takes from the process the files that its Root has for its start only, once it
// has started. It may be called once, and does nothing to a process that is gone.
func (p *Process) Settle() error {
	err := thread.Do(p.hidePassing)
	if err != nil && !errors.Is(err, os.ErrProcessDone) && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("hide from %s (pid %d) what it has needed to start: %w", p.name, p.proc.Pid, err)
	}
	return nil
}

// hidePassing moves the calling thread to the process's mount namespace, and unmounts
// there what is for its start.
func (p *Process) hidePassing() error {
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("leave the other threads' root: %w", err)
	}
	home, err := mountNamespace()
	if err != nil {
		return err
	}
	defer home.leave()
	var entered error
	if err := p.proc.WithHandle(func(handle uintptr) {
		entered = unix.Setns(int(handle), unix.CLONE_NEWNS)
	}); err != nil {
		return err
	}
	if entered != nil {
		return fmt.Errorf("enter its mount namespace: %w", entered)
	}
	for _, path := range slices.Backward(p.passing) {
		if err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			return fmt.Errorf("unmount %s: %w", path, err)
		}
	}
	return nil
}

// home is the mount namespace that a thread is in at first.
type home struct{ ns *os.File }

// mountNamespace is that of the calling thread.
func mountNamespace() (home, error) {
	ns, err := os.Open("/proc/thread-self/ns/mnt")
	if err != nil {
		return home{}, fmt.Errorf("look at the mount namespace: %w", err)
	}
	return home{ns}, nil
}

// leave takes the thread back, so that the namespace where it is ends with the process
// that is in it. Or it would end with the thread, which takes a while to end and keeps
// the cgroup in use meanwhile.
func (h home) leave() {
	_ = unix.Setns(int(h.ns.Fd()), unix.CLONE_NEWNS) // or it ends later
	h.ns.Close()
}
