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
	if err := withDescriptor(f, checkNetNS); err != nil {
		f.Close()
		return nil, fail(fmt.Sprintf("is none (%v): give a path below /run/netns or /proc", err), errdefs.ErrInvalidArgument)
	}
	return f, nil
}

// checkNetNS asks the kernel of what type of namespace a file is. The file system
// is looked at first: on a file of another, the request could mean anything.
func checkNetNS(fd int) error {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(fd, &fs); err != nil {
		return err
	}
	if fs.Type != unix.NSFS_MAGIC {
		return errors.New("its file system holds no namespaces")
	}
	kind, err := unix.IoctlRetInt(fd, unix.NS_GET_NSTYPE)
	if err == nil && kind != unix.CLONE_NEWNET {
		err = errors.New("it is a namespace of another type")
	}
	return err
}
