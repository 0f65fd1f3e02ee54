package virtcontainers

import (
	"encoding/json"
	"fmt"
	"path"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// Plan is what one container needs: what the host must make for it, and what
// the agent must run.
type Plan struct {
	// Guest is the OCI configuration with every path rewritten to the guest's,
	// and without what belongs to the host.
	Guest *specs.Spec
	// Mounts are made on the host below the container's directory in the share,
	// in this order.
	Mounts []HostMount
	// Disks are the host's block devices that the container gets.
	Disks []PlannedDisk
	// Sockets and Copies are binds that the share cannot carry. The agent makes
	// them in the guest, below Placement.GuestVolumes.
	Sockets, Copies []Volume
	// Memory are binds of volumes that the guest has in its own memory, there too.
	Memory []PlannedMemory
	// Hooks run on the host.
	Hooks HostHooks
	// Pod is what the machine itself is to be, of the container that brings it.
	Pod Pod
	// Notes are for the log: what the container asked for and does not get as
	// it would on the host.
	Notes []string

	shared []specs.LinuxNamespaceType // with the guest itself
}

// HostMount is a mount that the host makes for the guest to see.
type HostMount struct {
	// Type and Options are as in mount(8). Type "bind" has an absolute Source,
	// a directory or any other file: it exposes that and nothing beside it.
	Type, Source string
	Options      []string
	// Target is relative to the container's directory in the share.
	Target string
	// ReadOnly makes the mount, and all below it, read-only for the guest, whatever it
	// does.
	ReadOnly bool
	// Private keeps out of a bind what the host mounts below Source later.
	Private bool
	// IDs gives the files of a bind other owners; nil gives them none.
	IDs *IDMap
}

// Volume is what a bind names on the host, and the path at which the guest has
// what stands for it.
type Volume struct {
	Source, Target string
	// IDs gives its files other owners; nil gives them none.
	IDs *IDMap
}

// HostHooks are the OCI hooks that run in the runtime's namespace: on the host.
type HostHooks struct {
	// Created run once the sandbox's process exists and before the container's.
	Created []specs.Hook
	// Started run after the container's process was started.
	Started []specs.Hook
	// Stopped run after the container was deleted.
	Stopped []specs.Hook
}

// Placement says where a container's files are.
type Placement struct {
	// ID is the container's.
	ID string
	// Bundle is the bundle's absolute path on the host.
	Bundle string
	// GuestDir is where the guest sees the container's directory of the share.
	GuestDir string
	// GuestRootfs is where the guest has the container's root filesystem, if that is
	// on disks of the machine; empty if it comes by the share.
	GuestRootfs string
	// GuestVolumes is where the guest has what the agent makes for the container.
	GuestVolumes string
	// Sources says what the binds' sources are. It may lack those that are
	// nothing special.
	Sources map[string]SourceKind
	// MemoryVolumes are those of BindSources that the guest is to have in its memory.
	MemoryVolumes map[string]MemoryVolume
	// Role is the container's in its sandbox, whose id is Sandbox.
	Role    Role
	Sandbox string
	// First is set for the container that brings the machine.
	First bool
	// NoPause is set where no container holds the pod's namespaces.
	NoPause bool
	// GuestSHM is where the guest has what a pod's containers share as /dev/shm.
	GuestSHM string
	// Etc are files on the host by the names that a pod's containers have them
	// under in /etc, unless their configuration says otherwise.
	Etc map[string]string
	// BlockDevices are those of BindSources that are block devices of the host.
	BlockDevices map[string]BlockDevice
}

// RootfsTarget is the root filesystem's place in the container's directory.
const RootfsTarget = "rootfs"

const (
	mountGroup = "mounts"
	hookGroup  = "hooks"
)

// MountGroups are the directories in the container's directory that hold the
// targets of all other mounts.
func MountGroups() []string { return []string{mountGroup, hookGroup} }

// NewPlan plans a container from its OCI configuration, which it leaves as it
// is. What cannot be done in a guest is an errdefs.ErrInvalidArgument or
// errdefs.ErrNotImplemented that names it.
func NewPlan(spec *specs.Spec, at Placement) (*Plan, error) {
	guest, err := clone(spec)
	if err != nil {
		return nil, err
	}
	p := &Plan{Guest: guest}
	for _, concern := range []func(Placement) error{
		p.checkSections,
		p.planRootfs,
		p.planEtc,
		p.planDiskMounts,
		p.planMounts,
		p.planNamespaces,
		p.planUserNamespace,
		p.planResources,
		p.planDevices,
		p.planSecurity,
		p.planHooks,
	} {
		if err := concern(at); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// NeedsShare says whether the container has anything in the share: without that it
// can be in a machine that has none.
func (p *Plan) NeedsShare() bool { return len(p.Mounts) > 0 }

func (p *Plan) note(format string, args ...any) {
	p.Notes = append(p.Notes, fmt.Sprintf(format, args...))
}

// share plans a host mount at target and gives the path at which the guest sees
// it.
func (p *Plan) share(at Placement, m HostMount) string {
	p.Mounts = append(p.Mounts, m)
	return path.Join(at.GuestDir, m.Target)
}

// checkSections refuses what no later concern could plan.
func (p *Plan) checkSections(at Placement) error {
	switch s := p.Guest; {
	case s.Process == nil:
		return missing(at, "process")
	case len(s.Process.Args) == 0:
		return missing(at, "process.args")
	case s.Root == nil || s.Root.Path == "":
		return missing(at, "root.path")
	case s.Linux == nil:
		return missing(at, "linux")
	case s.Linux.IntelRdt != nil:
		return unsupported("linux.intelRdt")
	case len(s.Linux.NetDevices) > 0:
		return unsupported("linux.netDevices")
	case s.Linux.MemoryPolicy != nil:
		return unsupported("linux.memoryPolicy")
	}
	return nil
}

// planRootfs has the guest make a root filesystem read-only, as it is to be, and not the
// host: the container's mount points are made in it first.
func (p *Plan) planRootfs(at Placement) error {
	root := p.Guest.Root
	if at.GuestRootfs != "" {
		root.Path = at.GuestRootfs
		return nil
	}
	source := root.Path
	if !path.IsAbs(source) {
		source = path.Join(at.Bundle, source)
	}
	root.Path = p.share(at, HostMount{
		Type:    "bind",
		Source:  source,
		Options: []string{"rbind"},
		Target:  RootfsTarget,
	})
	return nil
}

func missing(at Placement, section string) error {
	return fmt.Errorf("%s/config.json has no %s: %w", at.Bundle, section, errdefs.ErrInvalidArgument)
}

func unsupported(section string) error {
	return fmt.Errorf("%s is not supported in a virtual machine: %w", section, errdefs.ErrNotImplemented)
}

func clone(spec *specs.Spec) (*specs.Spec, error) {
	data, err := json.Marshal(spec)
	if err != nil {
		return nil, fmt.Errorf("copying the configuration: %w", err)
	}
	var c specs.Spec
	if err := json.Unmarshal(data, &c); err != nil {
		return nil, fmt.Errorf("copying the configuration: %w", err)
	}
	return &c, nil
}
