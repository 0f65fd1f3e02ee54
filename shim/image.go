package shim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/hyperhq/hyper/config"
	"github.com/hyperhq/hyper/sandbox/layers"
)

// imageAction is the action of a builder of images of layers. It may outlive the server
// that asks for one: a container can be over before the image of its layers is built.
const imageAction = "build-image"

// imageRequest is what a builder is told.
type imageRequest struct {
	// Lower are the layers' directories, the topmost first.
	Lower []string `json:"lower"`
}

// buildImage builds the image that in asks for, when nobody else wants the processor or the
// disk. What it fails of is written down beside the images.
func buildImage(in io.Reader) error {
	var request imageRequest
	if err := readRequest(in, &request); err != nil {
		return err
	}
	if len(request.Lower) == 0 {
		return fmt.Errorf("build an image: of no layers: %w", errdefs.ErrInvalidArgument)
	}
	c, err := config.Load()
	if err != nil {
		return err
	}
	// The thread's priority and mounts are those of the programs that it starts. It is not
	// unlocked: it ends with the process.
	runtime.LockOSThread()
	if err := beModest(); err != nil {
		return err
	}
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("leave the host's mounts: %w", err)
	}
	if err := isolateMounts(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), layers.Deadline)
	defer cancel()
	cache := layers.Cache{Dir: c.Rootfs.Layers, MaxBytes: int64(c.Rootfs.LayersMiB) << 20}
	return errors.Join(cache.MakeEmpty(ctx, c.Rootfs.ScratchMiB), cache.Build(ctx, request.Lower))
}

// beModest makes the thread one that runs when no other wants to, and the process the
// first to go when memory runs out: what it does can be done again.
func beModest() error {
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte("1000"), 0); err != nil {
		return fmt.Errorf("making the builder the first to go: %w", err)
	}
	const (
		whoProcess = 1
		classIdle  = 3 << 13
	)
	// A kernel that has no such class of IO has a scheduler that needs none.
	_, _, _ = unix.Syscall(unix.SYS_IOPRIO_SET, whoProcess, 0, classIdle)
	if err := unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_IDLE}, 0); err != nil {
		return fmt.Errorf("lowering the builder's priority: %w", err)
	}
	return nil
}
