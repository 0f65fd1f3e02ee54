package virtcontainers

import (
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// planUserNamespace makes up for what root of a user namespace lacks in the
// guest: the network is the guest's own, so it belongs to another namespace of
// users than the container's, and root in there has no capability over it. What
// the host's runtime would let it do, as the network would be its own, is
// permitted to the whole pod instead.
func (p *Plan) planUserNamespace(at Placement) error {
	if !slices.ContainsFunc(p.Guest.Linux.Namespaces, func(ns specs.LinuxNamespace) bool { return ns.Type == specs.UserNamespace }) {
		return nil
	}
	if slices.Contains(p.shared, specs.NetworkNamespace) {
		p.bindOwned("sysfs", "/sys")
		p.permitNetwork(at)
	}
	if slices.Contains(p.shared, specs.IPCNamespace) {
		p.bindOwned("mqueue", "/dev/mqueue")
	}
	return nil
}

// bindOwned replaces mounts of a file system that shows a namespace, which only
// root of that may mount, by binds of the guest's own mount of it.
func (p *Plan) bindOwned(kind, source string) {
	for i, m := range p.Guest.Mounts {
		if m.Type != kind {
			continue
		}
		// With what is mounted below: the kernel uncovers nothing to other users.
		options := []string{"rbind"}
		for _, o := range m.Options {
			if o == "ro" {
				o = "rro"
			}
			options = append(options, o)
		}
		p.Guest.Mounts[i] = specs.Mount{Destination: m.Destination, Type: "bind", Source: source, Options: options}
	}
}

// permitNetwork lets everybody in the guest do by the kernel's settings what the
// container's capabilities permit its root. The pod's own settings have priority.
func (p *Plan) permitNetwork(at Placement) {
	caps := p.Guest.Process.Capabilities
	if caps == nil {
		return
	}
	for _, c := range []struct{ capability, sysctl, value string }{
		{"CAP_NET_BIND_SERVICE", "net.ipv4.ip_unprivileged_port_start", "0"},
		{"CAP_NET_RAW", "net.ipv4.ping_group_range", "0 2147483647"},
	} {
		if !at.First || !slices.Contains(caps.Bounding, c.capability) {
			continue
		}
		if p.Pod.Sysctls == nil {
			p.Pod.Sysctls = make(map[string]string)
		}
		if _, set := p.Pod.Sysctls[c.sysctl]; !set {
			p.Pod.Sysctls[c.sysctl] = c.value
		}
	}
	if slices.Contains(caps.Bounding, "CAP_NET_ADMIN") {
		p.note("the container has a user namespace: CAP_NET_ADMIN does not reach its network, which is the guest's own")
	}
}
