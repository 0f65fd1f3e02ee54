package shim

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"golang.org/x/sys/unix"

	"github.com/hyperhq/hyper/qemu/process/thread"
	"github.com/hyperhq/hyper/sandbox/cgroup"
)

// maxRequest bounds what such a process is told, in bytes: of an image, the names of all
// its layers.
const maxRequest = 64 << 10

// lowestPriority is the lowest nice value there is.
const lowestPriority = 19

// outside starts processes of this program that have nothing of the pod whose start
// they are for: they may live longer, or be needed by others.
type outside struct {
	invocation invocation
	// mounts is the mount namespace that containerd runs the shim in.
	mounts *os.File
	// home is the cgroups that the server was started in.
	home *cgroup.Place
}

// start starts an action that reads its request from standard input, with namespaces of
// its own as the flags of clone(2) say, and leaves the process to itself. It has files as
// its descriptors from 3 on.
func (o *outside) start(action string, request any, namespaces uintptr, files ...*os.File) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find the shim's binary: %w", err)
	}
	text, err := json.Marshal(request)
	if err != nil {
		return fmt.Errorf("start %s: %w", action, err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("start %s: %w", action, err)
	}
	defer r.Close()
	defer w.Close()
	i := o.invocation
	cmd := exec.Command(self, "-namespace", i.Namespace, "-id", i.ID, "-address", i.Address, action)
	cmd.Dir = "/"
	cmd.Stdin = r
	cmd.ExtraFiles = files
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Cloneflags: namespaces}
	if err := o.startThere(cmd); err != nil {
		return fmt.Errorf("start %s: %w", action, err)
	}
	go func() { // ends with the process, or with us
		if err := cmd.Wait(); err != nil {
			log.L.WithError(err).Warnf("%s has failed: its directory says why", action)
		}
	}()
	// It waits for its request, so that it uses nothing of the pod's.
	err = o.home.Enter(cmd.Process.Pid)
	if err == nil {
		_, err = w.Write(text)
	}
	if err != nil {
		return fmt.Errorf("start %s: %w", action, errors.Join(err, cmd.Process.Kill()))
	}
	log.L.WithField("pid", cmd.Process.Pid).Debugf("%s is at work", action)
	return nil
}

// startThere starts a command in the mount namespace that the pod's mounts are not in:
// it would keep them.
func (o *outside) startThere(cmd *exec.Cmd) error {
	return thread.Do(func() error {
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			return fmt.Errorf("leave the other threads' root: %w", err)
		}
		if err := unix.Setns(int(o.mounts.Fd()), unix.CLONE_NEWNS); err != nil {
			return fmt.Errorf("enter containerd's mount namespace: %w", err)
		}
		return cmd.Start()
	})
}

// readRequest reads what start has sent.
func readRequest(in io.Reader, request any) error {
	data, err := readBounded(in, maxRequest)
	if err != nil {
		return fmt.Errorf("read what to do: %w", err)
	}
	if err := json.Unmarshal(data, request); err != nil {
		return fmt.Errorf("this action is the server's only (%w): %w", err, errdefs.ErrInvalidArgument)
	}
	return nil
}
