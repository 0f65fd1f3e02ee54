package qemu

import (
	"errors"
	"fmt"
	"os"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// openNetNS opens the network namespace that a machine's process is to run in.
func openNetNS(path string) (*os.File, error) {
	fail := func(why string, kind error) error {
		return fmt.Errorf("network namespace %s %s: %w", path, why, kind)
	}
	// Or the open of a pipe waits for its other end.
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fail("does not exist", errdefs.ErrNotFound)
	}
	if err != nil {
		return nil, fail(fmt.Sprintf("cannot be opened: %v", err), errdefs.ErrFailedPrecondition)
	}
	raw, err := f.SyscallConn()
	if err == nil {
		err = checkNetNS(raw.Control)
	}
	if err != nil {
		f.Close()
		return nil, fail("is no network namespace: give its path below /run/netns or /proc", errdefs.ErrInvalidArgument)
	}
	return f, nil
}

// checkNetNS asks the kernel of what type of namespace a file is. The file system
// is looked at first: on a file of another, the request could mean anything.
func checkNetNS(control func(func(fd uintptr)) error) error {
	var failed error
	err := control(func(fd uintptr) {
		var fs unix.Statfs_t
		if failed = unix.Fstatfs(int(fd), &fs); failed != nil {
			return
		}
		if fs.Type != unix.NSFS_MAGIC {
			failed = unix.ENOTTY
			return
		}
		kind, err := unix.IoctlRetInt(int(fd), unix.NS_GET_NSTYPE)
		if err == nil && kind != unix.CLONE_NEWNET {
			err = unix.EINVAL
		}
		failed = err
	})
	return errors.Join(err, failed)
}
