package virtcontainers

import (
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// planDevices keeps the devices that every Linux has under the same numbers, and
// plans block devices that are asked for by name as disks. Any other belongs to the
// host's hardware: asked for by name it is refused, and in a privileged container,
// which lists whatever its host has, left out.
func (p *Plan) planDevices(Placement) error {
	privileged := allowsAllDevices(p.Guest.Linux.Resources)
	kept := p.Guest.Linux.Devices[:0]
	for _, d := range p.Guest.Linux.Devices {
		named := !privileged || isNamed(p.Guest.Linux.Resources, DeviceNumber{d.Major, d.Minor})
		switch {
		case isUniversal(d):
			kept = append(kept, d)
		case d.Type == "b" && named:
			if err := p.planDisk(d); err != nil {
				return err
			}
		case privileged:
			p.note("device %s belongs to the host", d.Path)
		default:
			return fmt.Errorf("device %s (%s %d:%d) belongs to the host: a container in a virtual machine cannot have it: %w",
				d.Path, d.Type, d.Major, d.Minor, errdefs.ErrNotImplemented)
		}
	}
	p.Guest.Linux.Devices = kept
	p.dropDiskRules()
	return nil
}

// isUniversal knows the numbers of Documentation/admin-guide/devices.txt that
// stand for a function of the kernel and not for a piece of hardware.
func isUniversal(d specs.LinuxDevice) bool {
	const (
		mem  = 1
		tty  = 5
		misc = 10
	)
	switch d.Type {
	case "p":
		return true
	case "c", "u":
		switch d.Major {
		case mem:
			return d.Minor == 3 || d.Minor == 5 || d.Minor == 7 || d.Minor == 8 || d.Minor == 9 || d.Minor == 11
		case tty:
			return d.Minor == 0 || d.Minor == 2
		case misc: // tun, fuse, loop-control
			return d.Minor == 200 || d.Minor == 229 || d.Minor == 237
		}
	}
	return false
}

func allowsAllDevices(r *specs.LinuxResources) bool {
	if r == nil {
		return false
	}
	all := false
	for _, rule := range r.Devices {
		if (rule.Type == "" || rule.Type == "a") && rule.Major == nil && rule.Minor == nil {
			all = rule.Allow
		}
	}
	return all
}
