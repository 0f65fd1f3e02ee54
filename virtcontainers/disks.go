package virtcontainers

import (
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// DeviceNumber is a device's on the host.
type DeviceNumber struct{ Major, Minor int64 }

func (n DeviceNumber) String() string { return fmt.Sprintf("%d:%d", n.Major, n.Minor) }

// BlockDevice is a block device of the host as a file stands for it.
type BlockDevice struct {
	DeviceNumber
	// Mode are the file's permission bits, UID and GID its owner.
	Mode     os.FileMode
	UID, GID uint32
}

// PlannedDisk is a block device of the host that a container gets as a disk of
// the machine.
type PlannedDisk struct {
	BlockDevice
	// Path is where the container has it.
	Path string
	// Access is what the container may do: letters of "rwm".
	Access string
}

// ReadOnly says that the container may not write to it.
func (d PlannedDisk) ReadOnly() bool { return !strings.Contains(d.Access, "w") }

// planDisk plans a block device that linux.devices names. The guest's configuration
// loses it, and the rules for it: its numbers are the host's.
func (p *Plan) planDisk(d specs.LinuxDevice) error {
	disk := BlockDevice{DeviceNumber: DeviceNumber{d.Major, d.Minor}, Mode: 0o666}
	if d.FileMode != nil {
		disk.Mode = *d.FileMode & os.ModePerm
	}
	if d.UID != nil {
		disk.UID = *d.UID
	}
	if d.GID != nil {
		disk.GID = *d.GID
	}
	return p.addDisk(PlannedDisk{
		BlockDevice: disk,
		Path:        d.Path,
		Access:      deviceAccess(p.Guest.Linux.Resources, disk.DeviceNumber),
	})
}

// planDiskMounts plans the bind mounts of block devices. The rules for devices
// hold for these too: one that they do not allow the container could not open.
func (p *Plan) planDiskMounts(at Placement) error {
	kept := p.Guest.Mounts[:0]
	for _, m := range p.Guest.Mounts {
		device, ok := at.BlockDevices[bindSource(m, at.Bundle)]
		if !ok || !isBind(m) {
			kept = append(kept, m)
			continue
		}
		ids, err := takeIDMap(&m)
		if err != nil {
			return err
		}
		device.UID, device.GID = ids.Owner(device.UID, device.GID)
		access := deviceAccess(p.Guest.Linux.Resources, device.DeviceNumber)
		if isReadOnly(m.Options) {
			access = strings.ReplaceAll(access, "w", "")
		}
		if err := p.addDisk(PlannedDisk{BlockDevice: device, Path: m.Destination, Access: access}); err != nil {
			return err
		}
	}
	p.Guest.Mounts = kept
	return nil
}

func (p *Plan) addDisk(d PlannedDisk) error {
	if !strings.ContainsAny(d.Access, "rw") {
		p.note("block device %s (%s) is left out: linux.resources.devices does not allow the container to open it", d.Path, d.DeviceNumber)
		return nil
	}
	d.Path = path.Clean(d.Path)
	if !path.IsAbs(d.Path) || d.Path == "/" {
		return fmt.Errorf("block device %s has no place in the container: want an absolute path, not %q: %w", d.DeviceNumber, d.Path, errdefs.ErrInvalidArgument)
	}
	if slices.ContainsFunc(p.Guest.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.UserNamespace }) {
		return fmt.Errorf("block device %s cannot be given to a container with a user namespace: %w", d.Path, errdefs.ErrNotImplemented)
	}
	// The last one at a path is what the container sees.
	p.Disks = slices.DeleteFunc(p.Disks, func(old PlannedDisk) bool { return old.Path == d.Path })
	p.Disks = append(p.Disks, d)
	return nil
}

// dropDiskRules takes out of the guest's configuration the rules for planned
// disks: under these numbers the guest may have something else.
func (p *Plan) dropDiskRules() {
	r := p.Guest.Linux.Resources
	if r == nil {
		return
	}
	r.Devices = slices.DeleteFunc(r.Devices, func(rule specs.LinuxDeviceCgroup) bool {
		return slices.ContainsFunc(p.Disks, func(d PlannedDisk) bool { return names(rule, d.DeviceNumber) })
	})
}

// deviceAccess is what the rules allow with a block device, of which the last that
// speaks of it counts. Where there are no rules everything is allowed.
func deviceAccess(r *specs.LinuxResources, n DeviceNumber) string {
	if r == nil || len(r.Devices) == 0 {
		return "rwm"
	}
	var access string
	for _, letter := range []string{"r", "w", "m"} {
		allowed := false
		for _, rule := range r.Devices {
			if covers(rule, n) && (rule.Access == "" || strings.Contains(rule.Access, letter)) {
				allowed = rule.Allow
			}
		}
		if allowed {
			access += letter
		}
	}
	return access
}

// covers says whether a rule speaks of a block device, maybe among others.
func covers(rule specs.LinuxDeviceCgroup, n DeviceNumber) bool {
	return (rule.Type == "" || rule.Type == "a" || rule.Type == "b") && matches(rule.Major, n.Major) && matches(rule.Minor, n.Minor)
}

// matches knows both ways to say "any".
func matches(rule *int64, number int64) bool { return rule == nil || *rule == -1 || *rule == number }

// names says whether a rule speaks of just this block device.
func names(rule specs.LinuxDeviceCgroup, n DeviceNumber) bool {
	return rule.Type == "b" && rule.Major != nil && *rule.Major == n.Major && rule.Minor != nil && *rule.Minor == n.Minor
}

// isNamed says whether some rule allows just this block device.
func isNamed(r *specs.LinuxResources, n DeviceNumber) bool {
	return r != nil && slices.ContainsFunc(r.Devices, func(rule specs.LinuxDeviceCgroup) bool { return rule.Allow && names(rule, n) })
}
