package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/containerd/errdefs"

	agentv1 "github.com/hyperhq/hyper/proto/hyper/agent/v1"
)

const (
	maxDisks = 64
	// maxSerial is what virtio-blk has room for, in bytes.
	maxSerial = 20
	// diskTime bounds the wait for the kernel to find the disks of one container.
	diskTime = 30 * time.Second

	blockClass = "/sys/block"
	// nodesDir has a directory of nodes for each container with disks: in the guest's
	// /dev, for a node anywhere else in the guest cannot be used.
	nodesDir = "/dev/hyper"
)

// foundDisk is a disk that a container is to have, under the number that the guest's
// kernel has given it.
type foundDisk struct {
	*agentv1.Disk
	blockDevice
}

// findDisks finds disks of the machine. It waits for those that the kernel has not
// found yet.
func findDisks(ctx context.Context, disks []*agentv1.Disk) ([]foundDisk, error) {
	if err := validateDisks(disks); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, diskTime, fmt.Errorf("the kernel has not found it within %s", diskTime))
	defer cancel()
	var found []foundDisk
	for _, d := range disks {
		device, err := findDisk(ctx, blockClass, d.GetSerial())
		if err != nil {
			return nil, fmt.Errorf("disk %s (%s): %w", d.GetSerial(), d.GetPath(), err)
		}
		found = append(found, foundDisk{d, device})
	}
	return found, nil
}

// addDisks makes nodes of disks in dir, which it makes, and puts them into a
// container's spec: as bind mounts, and with rules that let the container use them.
//
// They are no linux.devices, as a node that is made in the root filesystem stays
// there, and when the container is made anew its number may be another disk's.
func addDisks(spec *specs.Spec, dir string, disks []foundDisk) error {
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return fmt.Errorf("making a directory for nodes of disks: %w", err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return fmt.Errorf("making a directory for a container's nodes of disks: %w", err)
	}
	for i, d := range disks {
		node := filepath.Join(dir, strconv.Itoa(i))
		if err := d.makeNode(node); err != nil {
			return fmt.Errorf("making a node of disk %s: %w", d.GetSerial(), err)
		}
		d.addTo(spec, node)
	}
	return nil
}

func (d foundDisk) makeNode(path string) error {
	if err := unix.Mknod(path, unix.S_IFBLK, int(unix.Mkdev(uint32(d.major), uint32(d.minor)))); err != nil {
		return err
	}
	if err := os.Chown(path, int(d.GetUid()), int(d.GetGid())); err != nil {
		return err
	}
	return os.Chmod(path, os.FileMode(d.GetMode()))
}

func validateDisks(disks []*agentv1.Disk) error {
	if len(disks) > maxDisks {
		return fmt.Errorf("%d disks, at most %d: %w", len(disks), maxDisks, errdefs.ErrInvalidArgument)
	}
	for _, d := range disks {
		if err := validateDisk(d); err != nil {
			return fmt.Errorf("disk %.40q: %w: %w", d.GetSerial(), err, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

func validateDisk(d *agentv1.Disk) error {
	switch p := d.GetPath(); {
	case !isSerial(d.GetSerial()):
		return fmt.Errorf("want a serial of 1 to %d letters and digits", maxSerial)
	case len(p) >= unix.PathMax || strings.ContainsRune(p, 0) || !path.IsAbs(p) || path.Clean(p) != p || p == "/":
		return fmt.Errorf("want a clean absolute path, not %.140q", p)
	case d.GetMode()&^uint32(os.ModePerm) != 0:
		return fmt.Errorf("mode %#o has more than permissions", d.GetMode())
	case !isAccess(d.GetAccess()):
		return fmt.Errorf("want an access of letters of rwm, not %.10q", d.GetAccess())
	}
	return nil
}

func isSerial(s string) bool {
	return len(s) <= maxSerial && isAlphanumeric(s)
}

func isAlphanumeric(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(c rune) bool {
		return (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9')
	})
}

func isAccess(s string) bool {
	return s != "" && len(s) <= len("rwm") && strings.Trim(s, "rwm") == ""
}

// blockDevice is a block device as the guest's kernel numbers it.
type blockDevice struct{ major, minor int64 }

// addTo makes a node one of the container's devices.
func (d foundDisk) addTo(spec *specs.Spec, node string) {
	spec.Mounts = append(spec.Mounts, specs.Mount{Destination: d.GetPath(), Type: "bind", Source: node, Options: []string{"bind"}})
	if spec.Linux.Resources == nil {
		spec.Linux.Resources = &specs.LinuxResources{}
	}
	// The last rule counts: first nothing, then what is allowed.
	all := specs.LinuxDeviceCgroup{Allow: false, Type: "b", Major: &d.major, Minor: &d.minor, Access: "rwm"}
	some := all
	some.Allow, some.Access = true, d.GetAccess()
	spec.Linux.Resources.Devices = append(spec.Linux.Resources.Devices, all, some)
}

// missingDisk is what to look at if a disk never comes.
const missingDisk = "no block device has this serial number: has the machine been given one, and the kernel its driver?"

// findDisk finds the disk of a serial number in a directory of block devices. It
// waits for the kernel to announce it, until ctx ends.
func findDisk(ctx context.Context, class, serial string) (device blockDevice, err error) {
	err = awaitDevice(ctx, missingDisk, func() (bool, error) {
		dir := lookupDisk(class, serial)
		if dir == "" {
			return false, nil
		}
		device, err = readBlockDevice(dir)
		return true, err
	})
	return device, err
}

// lookupDisk gives the directory of the disk, or nothing if there is none yet.
func lookupDisk(class, serial string) string {
	files, _ := filepath.Glob(class + "/*/serial")
	for _, file := range files {
		// A disk that is just being taken away cannot be read.
		found, err := os.ReadFile(file)
		if err == nil && strings.TrimSpace(string(found)) == serial {
			return filepath.Dir(file)
		}
	}
	return ""
}

func readBlockDevice(dir string) (blockDevice, error) {
	data, err := os.ReadFile(filepath.Join(dir, "dev"))
	if err != nil {
		return blockDevice{}, fmt.Errorf("reading its numbers: %w", err)
	}
	text := strings.TrimSpace(string(data))
	before, after, _ := strings.Cut(text, ":")
	major, err1 := strconv.ParseInt(before, 10, 64)
	minor, err2 := strconv.ParseInt(after, 10, 64)
	if err := errors.Join(err1, err2); err != nil {
		return blockDevice{}, fmt.Errorf("its numbers are %q: %w", text, err)
	}
	return blockDevice{major, minor}, nil
}
