package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
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
)

// addDisks puts disks of the machine into a container's spec: their nodes, under the
// numbers that the guest's kernel has given them, and rules that let the container
// use them. It waits for those that the kernel has not found yet.
func addDisks(ctx context.Context, spec *specs.Spec, disks []*agentv1.Disk) error {
	if len(disks) == 0 {
		return nil
	}
	if err := validateDisks(disks); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, diskTime, fmt.Errorf("the kernel has not found it within %s", diskTime))
	defer cancel()
	for _, d := range disks {
		found, err := findDisk(ctx, blockClass, d.GetSerial())
		if err != nil {
			return fmt.Errorf("disk %s (%s): %w", d.GetSerial(), d.GetPath(), err)
		}
		found.addTo(spec, d)
	}
	return nil
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
	return s != "" && len(s) <= maxSerial && !strings.ContainsFunc(s, func(c rune) bool {
		return (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9')
	})
}

func isAccess(s string) bool {
	return s != "" && len(s) <= len("rwm") && strings.Trim(s, "rwm") == ""
}

// blockDevice is a block device as the guest's kernel numbers it.
type blockDevice struct{ major, minor int64 }

// addTo makes the device one of the container's, as d says.
func (b blockDevice) addTo(spec *specs.Spec, d *agentv1.Disk) {
	mode, uid, gid := os.FileMode(d.GetMode()), d.GetUid(), d.GetGid()
	// Whatever else would be there.
	spec.Linux.Devices = slices.DeleteFunc(spec.Linux.Devices, func(other specs.LinuxDevice) bool { return other.Path == d.GetPath() })
	spec.Linux.Devices = append(spec.Linux.Devices, specs.LinuxDevice{
		Path: d.GetPath(), Type: "b", Major: b.major, Minor: b.minor, FileMode: &mode, UID: &uid, GID: &gid,
	})
	if spec.Linux.Resources == nil {
		spec.Linux.Resources = &specs.LinuxResources{}
	}
	// The last rule counts: first nothing, then what is allowed.
	all := specs.LinuxDeviceCgroup{Allow: false, Type: "b", Major: &b.major, Minor: &b.minor, Access: "rwm"}
	some := all
	some.Allow, some.Access = true, d.GetAccess()
	spec.Linux.Resources.Devices = append(spec.Linux.Resources.Devices, all, some)
}

// findDisk finds the disk of a serial number in a directory of block devices. It
// waits for the kernel to announce it, until ctx ends.
func findDisk(ctx context.Context, class, serial string) (blockDevice, error) {
	if dir := lookupDisk(class, serial); dir != "" {
		return readBlockDevice(dir)
	}
	// Listen first, look second: what appears in between is announced.
	events, err := openAnnouncements(unix.NETLINK_KOBJECT_UEVENT, 1)
	if err != nil {
		return blockDevice{}, err
	}
	defer events.Close()
	stop := context.AfterFunc(ctx, func() { events.Close() })
	defer stop()
	// What the kernel says does not matter, only that something changed.
	buf := make([]byte, 8<<10)
	for {
		if dir := lookupDisk(class, serial); dir != "" {
			return readBlockDevice(dir)
		}
		if _, err := events.Read(buf); err != nil && !errors.Is(err, unix.ENOBUFS) {
			return blockDevice{}, fmt.Errorf("no block device has this serial number: has the machine been given one, and the kernel its driver? (%w)",
				errors.Join(err, context.Cause(ctx)))
		}
	}
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
