package virtcontainers

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// guestTypes are the file systems that are the guest's own: its kernel has them,
// and what they show is the guest's.
var guestTypes = []string{"proc", "sysfs", "tmpfs", "devpts", "mqueue", "cgroup", "cgroup2", "ramfs"}

// guestTrees are host paths that, when bound into a container, mean the kernel's
// view of the machine: in a guest that is the guest's own.
var guestTrees = []string{"/proc", "/sys", "/dev"}

// planMounts leaves to the guest the mounts that are its own. All others are
// made on the host below the share, and the guest binds them from there.
func (p *Plan) planMounts(at Placement) error {
	for i := range p.Guest.Mounts {
		m := &p.Guest.Mounts[i]
		ids, err := takeIDMap(m)
		if err != nil {
			return err
		}
		switch {
		case isPodSHM(at, *m):
			p.planSHM(at, m)
		case isBind(*m) && !isGuestTree(m.Source):
			p.planBind(at, i, ids)
		case !ids.IsZero():
			return fmt.Errorf("the mount of %s at %s has ids mapped (uidMappings), which only binds of the host's files can have: %w",
				m.Source, m.Destination, errdefs.ErrNotImplemented)
		case isBind(*m):
			p.note("bind of %s shows the guest's own, not the host's", m.Source)
		case slices.Contains(guestTypes, m.Type):
		default:
			p.planHostMount(at, i)
		}
	}
	return nil
}

// isPodSHM knows what a pod's containers share as /dev/shm: what containerd's CRI
// plugin made for it, or where it made nothing, what a container has by default.
// A volume that the pod puts there is one like others.
func isPodSHM(at Placement, m specs.Mount) bool {
	if at.Role == Alone || path.Clean(m.Destination) != "/dev/shm" {
		return false
	}
	return isBind(m) && strings.HasSuffix(path.Clean(m.Source), "/sandboxes/"+at.Sandbox+"/shm") || at.NoPause && m.Type == "tmpfs"
}

// planSHM has the containers share the guest's memory, and not a directory of the
// host.
func (p *Plan) planSHM(at Placement, m *specs.Mount) {
	if at.First {
		p.Pod.SHM = m.Source
	}
	m.Type, m.Source = "bind", at.GuestSHM
	m.Options = []string{"bind", "rprivate", "nosuid", "noexec", "nodev"}
}

// planEtc adds the pod's files in /etc.
func (p *Plan) planEtc(at Placement) error {
	if at.Role != PodMember {
		return nil
	}
	for _, name := range slices.Sorted(maps.Keys(at.Etc)) {
		destination := path.Join("/etc", name)
		if slices.ContainsFunc(p.Guest.Mounts, func(m specs.Mount) bool { return path.Clean(m.Destination) == destination }) {
			continue
		}
		options := []string{"bind", "rprivate"}
		if p.Guest.Root.Readonly {
			options = append(options, "ro")
		}
		p.Guest.Mounts = append(p.Guest.Mounts, specs.Mount{
			Destination: destination, Type: "bind", Source: at.Etc[name], Options: options,
			// They are of root: that of the container's user namespace, if it has one.
			UIDMappings: p.Guest.Linux.UIDMappings, GIDMappings: p.Guest.Linux.GIDMappings,
		})
	}
	return nil
}

func (p *Plan) planBind(at Placement, i int, ids *IDMap) {
	m := &p.Guest.Mounts[i]
	source := bindSource(*m, at.Bundle)
	if p.planVolume(at, i, source, ids) {
		return
	}
	if isShared(m.Options) {
		p.note("what the container mounts below %s does not reach the host, though it asks for that", m.Destination)
	}
	options := []string{"bind"}
	if slices.Contains(m.Options, "rbind") {
		options = []string{"rbind"}
	}
	m.Type = "bind"
	m.Source = p.share(at, HostMount{
		Type:     "bind",
		Source:   source,
		Options:  options,
		Target:   mountTarget(i),
		ReadOnly: isReadOnly(m.Options),
		Private:  isPrivate(m.Options),
		IDs:      ids,
	})
}

// planHostMount has the host make a mount of another file system, which the
// guest then binds.
func (p *Plan) planHostMount(at Placement, i int) {
	m := &p.Guest.Mounts[i]
	propagation, options := splitPropagation(m.Options)
	source := p.share(at, HostMount{
		Type:     m.Type,
		Source:   m.Source,
		Options:  options,
		Target:   mountTarget(i),
		ReadOnly: isReadOnly(m.Options),
	})
	guest := append([]string{"bind"}, propagation...)
	if isReadOnly(m.Options) {
		guest = append(guest, "ro")
	}
	*m = specs.Mount{Destination: m.Destination, Type: "bind", Source: source, Options: guest}
}

func mountTarget(i int) string { return fmt.Sprintf("%s/%d", mountGroup, i) }

// BindSources are the absolute paths on the host of what a configuration binds, for
// Placement.Sources and Placement.BlockDevices.
func BindSources(spec *specs.Spec, bundle string) []string {
	var sources []string
	for _, m := range spec.Mounts {
		if source := bindSource(m, bundle); isBind(m) && !slices.Contains(sources, source) {
			sources = append(sources, source)
		}
	}
	return sources
}

func bindSource(m specs.Mount, bundle string) string {
	if path.IsAbs(m.Source) {
		return m.Source
	}
	return path.Join(bundle, m.Source)
}

func isBind(m specs.Mount) bool {
	return m.Type == "bind" || slices.Contains(m.Options, "bind") || slices.Contains(m.Options, "rbind")
}

func isGuestTree(source string) bool {
	source = path.Clean(source)
	return slices.ContainsFunc(guestTrees, func(tree string) bool {
		return source == tree || strings.HasPrefix(source, tree+"/")
	})
}

// isReadOnly looks at the last of the options that say so, as mount(8) does.
func isReadOnly(options []string) bool {
	ro := false
	for _, o := range options {
		switch o {
		case "ro", "rro":
			ro = true
		case "rw", "rrw":
			ro = false
		}
	}
	return ro
}

// isPrivate says whether a bind asks for no part in the host's later mounts. One
// that asks for nothing gets them, as it does from other runtimes.
func isPrivate(options []string) bool {
	private := false
	propagation, _ := splitPropagation(options)
	for _, o := range propagation {
		private = strings.HasSuffix(o, "private") || strings.HasSuffix(o, "unbindable")
	}
	return private
}

// isShared says whether a bind asks for mounts of the container to reach the host.
func isShared(options []string) bool {
	return slices.Contains(options, "shared") || slices.Contains(options, "rshared")
}

func splitPropagation(options []string) (propagation, rest []string) {
	for _, o := range options {
		switch o {
		case "private", "rprivate", "shared", "rshared", "slave", "rslave", "unbindable", "runbindable":
			propagation = append(propagation, o)
		default:
			rest = append(rest, o)
		}
	}
	return propagation, rest
}
