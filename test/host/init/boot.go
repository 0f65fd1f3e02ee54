package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/hyperhq/hyper/guest/image"
	"github.com/hyperhq/hyper/test/host/wire"
)

// mount is one mount below a root that is being put together.
type mount struct {
	source, target, fstype string
	flags                  uintptr
	data                   string
}

const (
	// newRoot is where the root is put together.
	newRoot = "/mnt/root"
	// given is the root file system of who has booted this machine.
	given = "/mnt/given"
	// scratch is a disk of this machine's own: what is written goes there.
	scratch = "/mnt/scratch"
)

// first is what modules are loaded with.
var first = []mount{
	{"devtmpfs", "/dev", "devtmpfs", unix.MS_NOSUID, ""},
	{"proc", "/proc", "proc", 0, ""},
	{"sysfs", "/sys", "sysfs", 0, ""},
}

// root is the given file system with a disk above it. Where overlays must be written to there is the disk itself.
var root = []mount{
	{wire.RootTag, given, "9p", unix.MS_RDONLY, "trans=virtio,version=9p2000.L,cache=loose,msize=512000"},
	{"/dev/vda", scratch, "ext4", unix.MS_NOATIME, ""},
	{"root", newRoot, "overlay", 0, "lowerdir=" + given + ",upperdir=" + scratch + "/upper,workdir=" + scratch + "/work"},
	{scratch + "/tmp", newRoot + "/tmp", "", unix.MS_BIND, ""},
	{scratch + "/hyper", newRoot + "/var/lib/hyper", "", unix.MS_BIND, ""},
	{wire.CheckoutTag, newRoot + wire.Checkout, "9p", unix.MS_RDONLY, "trans=virtio,version=9p2000.L,cache=none,msize=512000"},
	{"devtmpfs", newRoot + "/dev", "devtmpfs", unix.MS_NOSUID, ""},
	{"devpts", newRoot + "/dev/pts", "devpts", 0, "mode=620,ptmxmode=666"},
	{"shm", newRoot + "/dev/shm", "tmpfs", 0, ""},
	{"proc", newRoot + "/proc", "proc", 0, ""},
	{"sysfs", newRoot + "/sys", "sysfs", 0, ""},
	{"cgroup2", newRoot + "/sys/fs/cgroup", "cgroup2", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
	{"run", newRoot + "/run", "tmpfs", 0, "mode=755"},
}

// boot makes this process's root that of a host.
func boot() error {
	if err := mountAll(first); err != nil {
		return err
	}
	if err := loadModules(); err != nil {
		return err
	}
	if err := mountAll(root); err != nil {
		return err
	}
	if err := unix.Chdir(newRoot); err != nil {
		return fmt.Errorf("enter the root: %w", err)
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move the root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("take the root: %w", err)
	}
	// As a service manager does: namespaces get to know of mounts that come later.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("share the mounts: %w", err)
	}
	return unix.Sethostname([]byte("hyper-test-host"))
}

func mountAll(list []mount) error {
	for _, m := range list {
		if err := os.MkdirAll(m.target, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.source, m.target, m.fstype, m.flags, m.data); err != nil && !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("mount %s at %s: %w", m.source, m.target, err)
		}
		if m.target != scratch {
			continue
		}
		for _, dir := range []string{"upper", "work", "tmp", "hyper"} {
			if err := os.MkdirAll(filepath.Join(scratch, dir), 0o755); err != nil {
				return err
			}
		}
		if err := os.Chmod(filepath.Join(scratch, "tmp"), os.ModeSticky|0o777); err != nil {
			return err
		}
	}
	return nil
}

// loadModules loads the modules that came with this program.
func loadModules() error {
	list, err := os.ReadFile(image.LoadList)
	if err != nil {
		return fmt.Errorf("read the list of modules: %w", err)
	}
	for path := range strings.FieldsSeq(string(list)) {
		if err := loadModule(path); err != nil {
			return err
		}
	}
	return nil
}

func loadModule(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("load %s: %w", path, err)
	}
	return nil
}
