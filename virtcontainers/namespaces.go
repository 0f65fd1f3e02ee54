package virtcontainers

import (
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// planNamespaces gives the container the namespaces of its guest: its own where
// it asks for new ones, and those of its pod, which are the guest's first ones,
// where it would join others. No path of the host's can mean anything there.
//
// The network of the guest is the sandbox's: the container that brings the
// machine has it, as have all of a pod.
func (p *Plan) planNamespaces(at Placement) error {
	if err := p.checkHostNamespaces(at); err != nil {
		return err
	}
	p.Pod.HostNetwork = at.First
	kept := p.Guest.Linux.Namespaces[:0]
	for _, ns := range p.Guest.Linux.Namespaces {
		if at.First && ns.Type == specs.NetworkNamespace {
			p.Pod.NetNS, p.Pod.HostNetwork = ns.Path, false
		}
		switch {
		case at.sharesWithGuest(ns):
			p.shared = append(p.shared, ns.Type)
			continue
		case ns.Type == specs.PIDNamespace && ns.Path != "" && at.Role == PodMember:
			ns.Path = containerNamespace + at.Sandbox
			if at.NoPause {
				ns.Path = podNamespace
			}
		case ns.Path != "":
			p.note("namespace %s of the host at %s: the container gets one of its own", ns.Type, ns.Path)
			ns.Path = ""
		}
		kept = append(kept, ns)
	}
	p.Guest.Linux.Namespaces = withCgroup(kept)
	p.planSharedNames(at)
	return nil
}

// withCgroup adds a cgroup namespace, which the guest's version of cgroups has for
// each container; for a host of the first version, containerd asks for none.
func withCgroup(list []specs.LinuxNamespace) []specs.LinuxNamespace {
	if slices.ContainsFunc(list, func(ns specs.LinuxNamespace) bool { return ns.Type == specs.CgroupNamespace }) {
		return list
	}
	return append(list, specs.LinuxNamespace{Type: specs.CgroupNamespace})
}

// containerNamespace begins the path of a namespace that is another container's,
// by its id: see CreateContainerRequest.
const containerNamespace = "container:"

// podNamespace is the path of a namespace that the guest holds for the pod.
const podNamespace = "pod"

// checkHostNamespaces refuses to a pod the host's processes and its IPC: it
// would see those of its machine, and not what it asked for.
func (p *Plan) checkHostNamespaces(at Placement) error {
	if at.Role != PodSandbox {
		return nil
	}
	for _, kind := range []specs.LinuxNamespaceType{specs.PIDNamespace, specs.IPCNamespace} {
		if !slices.ContainsFunc(p.Guest.Linux.Namespaces, func(ns specs.LinuxNamespace) bool { return ns.Type == kind }) {
			return fmt.Errorf("the pod asks for the host's %s namespace, which a virtual machine does not share: %w", strings.ToUpper(string(kind)), errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

// sharesWithGuest says whether the container has a namespace in common with the
// guest itself.
func (at Placement) sharesWithGuest(ns specs.LinuxNamespace) bool {
	switch ns.Type {
	case specs.NetworkNamespace:
		return at.First || at.Role == PodMember && ns.Path != ""
	case specs.IPCNamespace, specs.UTSNamespace:
		return at.Role == PodSandbox || at.Role == PodMember && ns.Path != ""
	}
	return false
}

// planSharedNames takes out of the container's configuration what is said of
// namespaces that it shares: the sandbox's first container says it for all.
func (p *Plan) planSharedNames(at Placement) {
	if slices.Contains(p.shared, specs.UTSNamespace) {
		if at.First {
			p.Pod.Hostname = p.Guest.Hostname
		}
		p.Guest.Hostname = ""
	}
	if !at.First {
		return
	}
	for name, value := range p.Guest.Linux.Sysctl {
		if slices.Contains(p.shared, namespaceOfSysctl(name)) {
			if p.Pod.Sysctls == nil {
				p.Pod.Sysctls = make(map[string]string)
			}
			p.Pod.Sysctls[name] = value
			delete(p.Guest.Linux.Sysctl, name)
		}
	}
}

// namespaceOfSysctl is the kind of namespace that a sysctl belongs to, or "".
func namespaceOfSysctl(name string) specs.LinuxNamespaceType {
	name = strings.ReplaceAll(name, "/", ".")
	for _, n := range []struct {
		prefix string
		kind   specs.LinuxNamespaceType
	}{
		{"net.", specs.NetworkNamespace},
		{"kernel.shm", specs.IPCNamespace},
		{"kernel.msg", specs.IPCNamespace},
		{"kernel.sem", specs.IPCNamespace},
		{"fs.mqueue.", specs.IPCNamespace},
		{"kernel.domainname", specs.UTSNamespace},
	} {
		if strings.HasPrefix(name, n.prefix) {
			return n.kind
		}
	}
	return ""
}
