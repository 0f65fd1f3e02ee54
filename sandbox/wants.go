package sandbox

import (
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/hyperhq/hyper/config"
	"github.com/hyperhq/hyper/virtcontainers"
)

// Wants is what a machine must be to be of use to a container that brings it.
type Wants struct {
	// Size is what it begins with.
	Size virtcontainers.Size
	// MaxVCPUs is how many processors it can have.
	MaxVCPUs uint32
}

// machineOf is the machine that a sizing asks for, whatever of it is in use at first.
func (z sizing) machineOf() Wants {
	return Wants{Size: virtcontainers.Size{MemoryMiB: z.size.MemoryMiB, VCPUs: z.leastCPUs}, MaxVCPUs: z.mostCPUs}
}

// WantsOf tells what machine the first container of a bundle will want, as far as that
// can be known before its root filesystem is. It is false where only a machine that is
// made for the container will do: one in a network namespace that is given, or with a
// share of files; and of a bundle of no container, but of a pod of the sandbox API.
func WantsOf(c *config.Config, spec *specs.Spec) (Wants, bool) {
	switch {
	case !c.Template.Enable || c.QEMU.Machine != config.MachineQ35 || c.Rootfs.By == config.RootfsShare:
		return Wants{}, false
	case spec.Process == nil || spec.Linux == nil || virtcontainers.RoleOf(spec.Annotations) != virtcontainers.Alone:
		return Wants{}, false
	case virtcontainers.PodOf(spec).NetNS != "" || hasUserNamespace(spec) || hasHostHooks(spec):
		return Wants{}, false
	case len(virtcontainers.BindSources(spec, "/")) > 0:
		return Wants{}, false
	}
	size, err := sizeOf(c, spec.Annotations, spec.Linux.Resources)
	return size.machineOf(), err == nil
}

// meet says whether a machine of these wants is what a guest is to be.
func (w Wants) meet(h hardware) bool {
	return w == h.machineOf() && !h.share && h.pod.NetNS == ""
}

// WantsOfBundle is WantsOf of the configuration in a bundle, and false if that cannot be
// read: whoever makes the container says why.
func WantsOfBundle(c *config.Config, bundle string) (Wants, bool) {
	spec, err := readSpec(bundle)
	if err != nil {
		return Wants{}, false
	}
	return WantsOf(c, spec)
}
