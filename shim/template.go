package shim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"golang.org/x/sys/unix"

	"github.com/hyperhq/hyper/config"
	"github.com/hyperhq/hyper/qemu/process/thread"
	"github.com/hyperhq/hyper/sandbox/cgroup"
	"github.com/hyperhq/hyper/sandbox/factory"
)

const (
	// buildAction is the action of a builder of templates.
	buildAction = "build-template"
	// buildTimeout bounds a build, which gives way to all else on the host.
	buildTimeout = 3 * time.Minute
	// maxKind bounds what a builder is told, in bytes.
	maxKind = 4 << 10
	// builderNice is the lowest priority there is.
	builderNice = 19
)

// builder starts builders of templates. Each is a process of its own that has nothing
// of the pod whose start it is for: it may live longer, or be needed by others.
type builder struct {
	invocation invocation
	// mounts is the mount namespace that containerd runs the shim in.
	mounts *os.File
	// home is the cgroups that the server was started in.
	home *cgroup.Place
}

// begin starts a builder of a kind and leaves it to itself: it ends when it has built,
// by the deadline at the latest.
func (b *builder) begin(kind factory.Kind) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find the shim's binary: %w", err)
	}
	request, err := json.Marshal(kind)
	if err != nil {
		return fmt.Errorf("build a template: %w", err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("build a template: %w", err)
	}
	defer r.Close()
	defer w.Close()
	cmd := exec.Command(self, "-namespace", b.invocation.Namespace, "-id", b.invocation.ID, "-address", b.invocation.Address, buildAction)
	cmd.Dir = "/"
	cmd.Stdin = r
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := b.startOutside(cmd); err != nil {
		return fmt.Errorf("start a builder of templates: %w", err)
	}
	go func() { // ends with the builder, or with us
		if err := cmd.Wait(); err != nil {
			log.L.WithError(err).Warn("no template was built: the directory of templates says why")
		}
	}()
	// It waits for its request, so that it uses nothing of the pod's.
	err = b.home.Enter(cmd.Process.Pid)
	if err == nil {
		_, err = w.Write(request)
	}
	if err != nil {
		return fmt.Errorf("start a builder of templates: %w", errors.Join(err, cmd.Process.Kill()))
	}
	log.L.WithField("pid", cmd.Process.Pid).Debug("a template is being built")
	return nil
}

// startOutside starts a command in the mount namespace that the pod's mounts are not
// in: it would keep them.
func (b *builder) startOutside(cmd *exec.Cmd) error {
	return thread.Do(func() error {
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			return fmt.Errorf("leave the other threads' root: %w", err)
		}
		if err := unix.Setns(int(b.mounts.Fd()), unix.CLONE_NEWNS); err != nil {
			return fmt.Errorf("enter containerd's mount namespace: %w", err)
		}
		return cmd.Start()
	})
}

// buildTemplate is the builder: it builds what it is told on in.
func buildTemplate(in io.Reader) error {
	request, err := readBounded(in, maxKind)
	if err != nil {
		return fmt.Errorf("read which template to build: %w", err)
	}
	var kind factory.Kind
	if err := json.Unmarshal(request, &kind); err != nil {
		return fmt.Errorf("the builder is started by the server only (%w): %w", err, errdefs.ErrInvalidArgument)
	}
	// Of all threads there are; those to come have it from them.
	if err := unix.Setpriority(unix.PRIO_PGRP, 0, builderNice); err != nil {
		return fmt.Errorf("give way to others: %w", err)
	}
	c, err := config.Load()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), buildTimeout)
	defer cancel()
	return factory.Build(ctx, c, kind)
}
