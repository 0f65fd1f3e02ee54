package shim

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/hyperhq/hyper/config"
	"github.com/hyperhq/hyper/sandbox/layers"
)

// actionBuildImage is what a server asks of a process of its own, which may outlive it:
// a container can be over before the image of its layers is built. It ends by itself.
const actionBuildImage = "build-image"

// imageBuilder is the command for it. Directories have no colon in their names: see
// layers.OverlayOf.
func imageBuilder(lower, keepOut []string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", "-layers", strings.Join(lower, ":"), "-keep-out", strings.Join(keepOut, ":"), actionBuildImage)
	cmd.Args[0] = "containerd-shim-hyper-v2"
	cmd.Dir = "/"
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	return cmd
}

// buildImage builds the image of layers, when nobody else wants the processor or the
// disk. What it fails of is written down beside the images.
func buildImage(ctx context.Context, i invocation) error {
	if i.Layers == "" {
		return fmt.Errorf("command line: -layers must be given: %w", errdefs.ErrInvalidArgument)
	}
	c, err := config.Load()
	if err != nil {
		return err
	}
	// The thread's priority and namespace are those of the programs that it starts.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := beModest(); err != nil {
		return err
	}
	if err := leaveMounts(strings.Split(i.KeepOut, ":")); err != nil {
		return err
	}
	cache := layers.Cache{Dir: c.Rootfs.Layers, MaxBytes: int64(c.Rootfs.LayersMiB) << 20}
	return errors.Join(cache.MakeEmpty(ctx, c.Rootfs.ScratchMiB), cache.Build(ctx, strings.Split(i.Layers, ":")))
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

// leaveMounts gives the thread a mount namespace of its own, in which nothing below
// some directories is mounted: what a builder kept mounted the host could not let go of.
func leaveMounts(dirs []string) error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("leaving the mount namespace: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("leaving the mount namespace: %w", err)
	}
	for _, dir := range dirs {
		if dir == "" {
			continue
		}
		below, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
		if err != nil {
			return fmt.Errorf("leaving mounts below %s: %w", dir, err)
		}
		for _, m := range slices.Backward(below) { // the later ones are on the earlier
			// Of one that another has covered the path may lead to nothing. It goes with
			// what it is on.
			err := unix.Unmount(m.Mountpoint, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
			if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
				return fmt.Errorf("leaving the mount %s: %w", m.Mountpoint, err)
			}
		}
	}
	return nil
}
