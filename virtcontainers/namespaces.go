package virtcontainers

import (
	"path"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// NetworkNamespace is the path of the host's network namespace that a
// configuration asks for; empty if it wants a new one, or the host's.
func NetworkNamespace(spec *specs.Spec) string {
	if spec.Linux == nil {
		return ""
	}
	for _, ns := range spec.Linux.Namespaces {
		if ns.Type == specs.NetworkNamespace {
			return ns.Path
		}
	}
	return ""
}

// planNamespaces makes every namespace the guest's own: a path names one of the
// host's, which a guest cannot join. A container without a network namespace
// (the host's network) shares the guest's.
func (p *Plan) planNamespaces(Placement) error {
	for i := range p.Guest.Linux.Namespaces {
		ns := &p.Guest.Linux.Namespaces[i]
		if ns.Path != "" {
			p.note("namespace %s of the host at %s: the container gets one of its guest", ns.Type, ns.Path)
			ns.Path = ""
		}
	}
	return nil
}

// planResources places the container's cgroup in the guest and drops the limits
// that speak of the host's devices and processors.
func (p *Plan) planResources(at Placement) error {
	p.Guest.Linux.CgroupsPath = path.Join("/hyper", at.ID)
	if r := p.Guest.Linux.Resources; r != nil {
		p.Notes = append(p.Notes, GuestResources(r)...)
	}
	return nil
}
