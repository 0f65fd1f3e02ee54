package agent

import (
	"fmt"
	"os"
	"time"

	"github.com/opencontainers/runc/libcontainer/configs"
	"golang.org/x/sys/unix"
)

// holds keep the file systems of the share that a container uses. The guest's kernel makes
// one for each directory of the share that is a mount on the host, and takes it apart when
// its last mount goes, whatever it still awaits of the host: with the answer to a file's
// closing it then uses an inode that is no more (fuse_release_end, Linux 6.1 and 6.12), and
// panics. A process that ends closes its files without waiting, and its container's mounts may
// go with it. So they are kept until the host has answered.
type holds struct {
	held []hold
	view int // the container's mount namespace, with what it has mounted since; 0 if there is none
}

// hold is a directory of the share, where the agent has it, too.
type hold struct {
	path string
	fd   int
}

const (
	// settleRounds is how often the host is asked something after a container's end. It
	// answers in order, but the kernel lets only a dozen closings of files be on their way.
	settleRounds = 16
	// settleTime bounds that.
	settleTime = 5 * time.Second
)

// holdShare holds what a container's configuration names of the share.
func holdShare(config *configs.Config) *holds {
	h := &holds{}
	paths := []string{config.Rootfs}
	for _, m := range config.Mounts {
		if m.IsBind() {
			paths = append(paths, m.Source)
		}
	}
	for _, path := range paths {
		// This is also what has the kernel make the file system.
		fd, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			continue // a file, or nothing: whoever makes the container says so
		}
		if !onShare(fd) {
			unix.Close(fd)
			continue
		}
		h.held = append(h.held, hold{path, fd})
	}
	return h
}

func onShare(fd int) bool {
	var st unix.Statfs_t
	return unix.Fstatfs(fd, &st) == nil && st.Type == unix.FUSE_SUPER_MAGIC
}

// follow holds what the container of a process mounts later, too.
func (h *holds) follow(pid int) error {
	if len(h.held) == 0 {
		return nil
	}
	fd, err := unix.Open(fmt.Sprintf("/proc/%d/ns/mnt", pid), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("holding the mounts of process %d: %w", pid, err)
	}
	h.view = fd
	return nil
}

// release lets go of all, when the container's processes have ended and the host has
// answered what they had asked. It can be tried again.
func (h *holds) release() error {
	if h == nil || len(h.held) == 0 {
		return nil
	}
	if err := h.settle(); err != nil {
		return err
	}
	if h.view != 0 {
		unix.Close(h.view)
		h.view = 0
	}
	for _, one := range h.held {
		// Of a directory that is none of the host's mounts there is nothing to unmount.
		_ = unix.Unmount(one.path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		unix.Close(one.fd)
	}
	h.held = nil
	return nil
}

// settle waits until the host has answered all that it was asked before. A host that
// answers with errors has done so.
func (h *holds) settle() error {
	done := make(chan struct{})
	fd := h.held[0].fd
	go func() { // ends with the host's answer
		defer close(done)
		for range settleRounds {
			_ = onShare(fd)
		}
	}()
	timer := time.NewTimer(settleTime)
	defer timer.Stop()
	select {
	case <-done:
		return nil
	case <-timer.C:
		return fmt.Errorf("waiting for the share: no answer within %s: %w", settleTime, os.ErrDeadlineExceeded)
	}
}
