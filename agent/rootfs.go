package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/containerd/errdefs"

	agentv1 "github.com/hyperhq/hyper/proto/hyper/agent/v1"
)

// rootfsDir has a directory for each container whose root file system is put
// together from disks.
const rootfsDir = "/run/hyper/rootfs"

// rootfs is such a root file system:
//
//	<dir>/image    the EROFS image, which is only read
//	<dir>/scratch  the ext4 disk, or a tmpfs: what is written, and overlayfs's work
//	<target>       the overlay of both
type rootfs struct {
	dir    string
	mounts []string // in order
	upper  string   // what the container has written; empty if that is not kept
}

// rootDisks are nodes of the disks of one root file system. The zero value has none.
type rootDisks struct{ image, scratch string }

// findRootfs waits for the disks of a root file system, and for the kernel to know
// what is on them. It makes nothing but nodes, which remove removes.
func (a *Agent) findRootfs(ctx context.Context, id string, want *agentv1.Rootfs) (_ rootDisks, err error) {
	if want == nil {
		return rootDisks{}, nil
	}
	if err := validateRootfs(id, want); err != nil {
		return rootDisks{}, err
	}
	for _, filesystem := range []string{"erofs", "ext4"} {
		if err := a.modules.await(ctx, filesystem); err != nil {
			return rootDisks{}, err
		}
	}
	ctx, cancel := context.WithTimeoutCause(ctx, diskTime, fmt.Errorf("the kernel has not found it within %s", diskTime))
	defer cancel()
	var found rootDisks
	defer func() {
		if err != nil {
			found.remove()
		}
	}()
	if found.image, err = a.openRootDisk(ctx, want.GetImage()); err != nil {
		return found, err
	}
	if want.GetScratch() != "" {
		found.scratch, err = a.openRootDisk(ctx, want.GetScratch())
	}
	return found, err
}

func (d rootDisks) remove() {
	for _, node := range []string{d.image, d.scratch} {
		if node != "" {
			_ = os.Remove(node)
		}
	}
}

func validateRootfs(id string, want *agentv1.Rootfs) error {
	home := filepath.Join(rootfsDir, id) + "/"
	switch target := want.GetTarget(); {
	case !isSerial(want.GetImage()), want.GetScratch() != "" && !isSerial(want.GetScratch()):
		return fmt.Errorf("root file system on disks %.40q and %.40q: want serials of 1 to %d letters and digits: %w",
			want.GetImage(), want.GetScratch(), maxSerial, errdefs.ErrInvalidArgument)
	case filepath.Clean(target) != target || !strings.HasPrefix(target, home):
		return fmt.Errorf("root file system at %.140q: want a clean path below %s: %w", target, home, errdefs.ErrInvalidArgument)
	}
	return nil
}

// openRootDisk makes a node of a disk that can be opened: there is a moment in which
// the kernel shows a disk that it has not opened for use yet.
func (a *Agent) openRootDisk(ctx context.Context, serial string) (node string, err error) {
	if err := os.MkdirAll(nodesDir, 0o700); err != nil {
		return "", fmt.Errorf("making a directory for nodes of disks: %w", err)
	}
	node = filepath.Join(nodesDir, "root-"+serial)
	if device, known := a.known.take(serial); known {
		if err := device.mknod(node); err != nil {
			return "", fmt.Errorf("disk %s of the root file system: %w", serial, err)
		}
		return node, nil
	}
	err = awaitDevice(ctx, missingDisk, func() (bool, error) {
		dir := lookupDisk(blockClass, serial)
		if dir == "" {
			return false, nil
		}
		device, err := readBlockDevice(dir)
		if err != nil {
			return false, err
		}
		return device.usable(node)
	})
	if err != nil {
		return "", fmt.Errorf("disk %s of the root file system: %w", serial, err)
	}
	return node, nil
}

func (d blockDevice) mknod(node string) error {
	if err := unix.Mknod(node, unix.S_IFBLK|0o600, int(unix.Mkdev(uint32(d.major), uint32(d.minor)))); err != nil {
		return fmt.Errorf("making a node: %w", err)
	}
	return nil
}

// usable makes a node of a device, and says whether it can be opened now.
func (d blockDevice) usable(node string) (bool, error) {
	if err := d.mknod(node); err != nil {
		return false, err
	}
	f, err := os.Open(node)
	if err == nil {
		return true, f.Close()
	}
	if rerr := os.Remove(node); !errors.Is(err, unix.ENXIO) || rerr != nil {
		return false, errors.Join(err, rerr)
	}
	return false, nil
}

// mountRootfs puts a root file system together from its disks. It gives nil where
// none is wanted. Nothing is left when it fails.
func mountRootfs(id string, want *agentv1.Rootfs, disks rootDisks) (_ *rootfs, err error) {
	if want == nil {
		return nil, nil
	}
	r := &rootfs{dir: filepath.Join(rootfsDir, id)}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("putting the root file system together: %w", err), r.remove())
		}
	}()
	image, scratch := filepath.Join(r.dir, "image"), filepath.Join(r.dir, "scratch")
	if err := r.mount(&agentv1.Mount{Type: "erofs", Source: disks.image, Target: image, Options: []string{"ro"}}); err != nil {
		return nil, err
	}
	if err := r.mount(scratchMount(disks.scratch, scratch)); err != nil {
		return nil, err
	}
	upper, work := filepath.Join(scratch, "upper"), filepath.Join(scratch, "work")
	if err := makeUpper(image, upper, work); err != nil {
		return nil, err
	}
	if err := r.mount(overlayMount(image, upper, work, want.GetTarget())); err != nil {
		return nil, err
	}
	if disks.scratch != "" {
		r.upper = upper
	}
	return r, nil
}

func (r *rootfs) mount(m *agentv1.Mount) error {
	if err := mount(m); err != nil {
		return err
	}
	r.mounts = append(r.mounts, m.GetTarget())
	return nil
}

// scratchMount is where what is written goes. A container that cannot write needs
// little: its mount points may have to be made.
func scratchMount(node, target string) *agentv1.Mount {
	if node == "" {
		return &agentv1.Mount{Type: "tmpfs", Source: "rootfs", Target: target, Options: []string{"size=1m", "mode=0700"}}
	}
	// It ends with the machine, so nothing has to reach the host's disk in any
	// order; what is deleted is given back to the host.
	return &agentv1.Mount{Type: "ext4", Source: node, Target: target, Options: []string{"noatime", "nobarrier", "noinit_itable", "discard"}}
}

// overlayMount is as containerd's snapshotter would mount it: what is written must be
// what that would have, so that it can be saved there.
func overlayMount(image, upper, work, target string) *agentv1.Mount {
	return &agentv1.Mount{Type: "overlay", Source: "overlay", Target: target, Options: []string{
		"lowerdir=" + image, "upperdir=" + upper, "workdir=" + work,
		"index=off", "metacopy=off", "redirect_dir=off",
		// As for the disk below it.
		"volatile",
	}}
}

// makeUpper makes the directories of an overlay. The root directory is that of the
// image until the container changes it.
func makeUpper(image, upper, work string) error {
	var st unix.Stat_t
	if err := unix.Stat(image, &st); err != nil {
		return &os.PathError{Op: "stat", Path: image, Err: err}
	}
	for _, dir := range []string{upper, work} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
	}
	if err := os.Chown(upper, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	return os.Chmod(upper, fileMode(st.Mode))
}

// remove undoes mountRootfs. It can be tried again; of none it does nothing.
func (r *rootfs) remove() error {
	if r == nil {
		return nil
	}
	if err := unmountAll(r.mounts); err != nil {
		return err
	}
	r.mounts = nil
	// What is still busy there is not ours to remove.
	for _, name := range []string{"image", "scratch"} {
		_ = os.Remove(filepath.Join(r.dir, name))
	}
	if err := os.RemoveAll(r.dir); err != nil {
		return fmt.Errorf("removing the root file system's mount points: %w", err)
	}
	return nil
}
