package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/opencontainers/runc/libcontainer/exeseal"
	"golang.org/x/sys/unix"

	"github.com/hyperhq/hyper/agent/reexec"
)

// prepareNext does ahead what the next container would wait for.
func (a *Agent) prepareNext(ctx context.Context) error {
	if err := a.ready(ctx); err != nil {
		return err
	}
	return errors.Join(a.usher.ready(ctx), a.startSpare(ctx))
}

// startSpare starts a process that will be the init of the first container which
// libcontainer makes, if that wants nothing unusual of it, and returns when all that can be done before is
// done. One that waits already is enough. See package reexec.
func (a *Agent) startSpare(ctx context.Context) error {
	if _, err := os.Lstat(reexec.SpareSocket); err == nil {
		return nil
	}
	dir := filepath.Dir(reexec.SpareSocket)
	if err := makePrivateDir(dir); err != nil {
		return fmt.Errorf("starting a spare init: %w", err)
	}
	// The container must not find the agent's own program in /proc.
	exe, err := exeseal.CloneSelfExe(dir)
	if err != nil {
		return fmt.Errorf("starting a spare init: copying the agent's program: %w", err)
	}
	defer exe.Close()
	ready, told, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("starting a spare init: %w", err)
	}
	defer ready.Close()
	defer told.Close()
	cmd := exec.Command("", reexec.Spare)
	cmd.Env = []string{}
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS, Setsid: true}
	cmd.ExtraFiles = append(cmd.ExtraFiles, told)
	for len(cmd.ExtraFiles) < reexec.SpareDescriptors {
		cmd.ExtraFiles = append(cmd.ExtraFiles, exe)
	}
	// Where the child has it: by then its number here may be another file's.
	cmd.Path = fmt.Sprintf("/proc/self/fd/%d", reexec.SpareReady+reexec.SpareDescriptors-1)
	if err := a.forker.do(cmd.Start); err != nil {
		return fmt.Errorf("starting a spare init: %w", err)
	}
	told.Close()
	pid := cmd.Process.Pid
	fd, err := openPidfd(pid)
	if err != nil {
		return err
	}
	// libcontainer waits for it if it becomes an init.
	_ = cmd.Process.Release()
	go reapUnused(pid, fd)
	stop := context.AfterFunc(ctx, func() { _ = ready.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	if _, err := ready.Read(make([]byte, 1)); err != nil {
		return errors.Join(fmt.Errorf("waiting for the spare init: %w", err), context.Cause(ctx))
	}
	return nil
}

// reapUnused reaps a spare init that ends without having been one.
func reapUnused(pid int, fd *pidfd) {
	defer fd.close()
	if err := fd.await(); err != nil {
		return
	}
	// A spare removes its socket when it becomes an init.
	if err := os.Remove(reexec.SpareSocket); err == nil {
		_, _ = unix.Wait4(pid, nil, unix.WALL, nil)
	}
}
