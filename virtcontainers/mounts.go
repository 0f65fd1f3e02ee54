package virtcontainers

import (
	"fmt"
	"path"
	"slices"
	"strings"

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
		switch {
		case isPodSHM(at, *m):
			p.planSHM(at, m)
		case isBind(*m) && isGuestTree(m.Source):
			p.note("bind of %s shows the guest's own, not the host's", m.Source)
		case isBind(*m):
			p.planBind(at, i)
		case slices.Contains(guestTypes, m.Type):
		default:
			p.planHostMount(at, i)
		}
	}
	return nil
}

// isPodSHM knows what a pod's containers share as /dev/shm. They share it in the
// guest's memory, and not by way of a directory of the host.
func isPodSHM(at Placement, m specs.Mount) bool {
	return at.Role != Alone && isBind(m) && path.Clean(m.Destination) == "/dev/shm"
}

func (p *Plan) planSHM(at Placement, m *specs.Mount) {
	if at.First {
		p.Pod.SHM = m.Source
	}
	m.Type, m.Source = "bind", at.GuestSHM
}

func (p *Plan) planBind(at Placement, i int) {
	m := &p.Guest.Mounts[i]
	source := bindSource(at.Bundle, *m)
	if p.planVolume(at, i, source) {
		return
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
