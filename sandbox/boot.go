package sandbox

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/hyperhq/hyper/config"
	"github.com/hyperhq/hyper/virtcontainers"
)

// BootOptions are what a machine is made with when no container brings it. Each
// may be left out.
type BootOptions struct {
	// Bundle is the path of the sandbox's bundle. The configuration in it, if
	// there is one, sizes the machine as that of a first container does.
	Bundle string
	// Annotations are added to the configuration's, and go before them.
	Annotations map[string]string
	// Resources are limits that the machine must hold beside the
	// configuration's.
	Resources specs.LinuxResources
	// NetNS is the path of the network namespace that the machine is to be in;
	// empty is the one that the configuration names, or a new one.
	NetNS string
	// HostNetwork says that the pod is to have the host's network.
	HostNetwork bool
	// Hostname, Sysctls and Cgroup are as in virtcontainers.Pod, and go before
	// those of the configuration.
	Hostname, Cgroup string
	Sysctls          map[string]string
	// Etc are files that the pod's containers have in /etc, unless their
	// configuration says otherwise: contents by name.
	Etc map[string]string
}

// Boot starts the machine without a container, and returns once its agent has
// answered. A machine that is there already stays as it is, whatever o says, and
// is waited for. When ctx ends before, the machine boots on, until Stop.
func (s *Sandbox) Boot(ctx context.Context, o BootOptions) error {
	h, err := s.planMachine(o)
	if err != nil {
		return err
	}
	etc, err := s.writeEtc(o.Etc)
	if err != nil {
		return err
	}
	g, err := s.machine(h, etc)
	if err != nil {
		return err
	}
	if err := g.wait(ctx, g.ready); err != nil {
		return err
	}
	_, err = g.call()
	return err
}

func (s *Sandbox) planMachine(o BootOptions) (hardware, error) {
	spec := &specs.Spec{}
	if o.Bundle != "" {
		found, err := readSpec(o.Bundle)
		switch {
		case err == nil:
			spec = found
		case !errdefs.IsNotFound(err):
			return hardware{}, err
		}
	}
	annotations := make(map[string]string)
	maps.Copy(annotations, spec.Annotations)
	maps.Copy(annotations, o.Annotations)
	limits := []*specs.LinuxResources{&o.Resources}
	if spec.Linux != nil {
		limits = append(limits, spec.Linux.Resources)
	}
	size, err := s.size(annotations, limits...)
	// What its containers will need is not known.
	return hardware{sizing: size, pod: o.pod(spec), share: true}, err
}

// pod is what the machine is to be.
func (o BootOptions) pod(spec *specs.Spec) virtcontainers.Pod {
	pod := virtcontainers.PodOf(spec)
	pod.NetNS = cmp.Or(o.NetNS, pod.NetNS)
	pod.HostNetwork = (pod.HostNetwork || o.HostNetwork) && o.NetNS == ""
	pod.Hostname = cmp.Or(o.Hostname, pod.Hostname)
	pod.Cgroup = cmp.Or(o.Cgroup, pod.Cgroup)
	if len(o.Sysctls) > 0 {
		pod.Sysctls = o.Sysctls
	}
	return pod
}

// hardware is what a machine is given.
type hardware struct {
	sizing
	pod virtcontainers.Pod
	// share says that it has a share of files.
	share bool
	// alone says that it is for a container of no pod: nobody else bounds, on the host,
	// what it uses.
	alone bool
}

// sizing is how large a machine is, and how far its processors follow what it runs.
type sizing struct {
	// size is what is needed at first. Its memory is what the machine begins with.
	size virtcontainers.Size
	// leastCPUs is how many processors the machine begins with and always has, and
	// mostCPUs how many it can have.
	leastCPUs, mostCPUs uint32
}

// size is how large the machine must be for what annotations ask, and for each of limits
// for itself: they are of the same containers, as different parties know them.
func (s *Sandbox) size(annotations map[string]string, limits ...*specs.LinuxResources) (sizing, error) {
	return sizeOf(s.opts.Config, annotations, limits...)
}

func sizeOf(c *config.Config, annotations map[string]string, limits ...*specs.LinuxResources) (sizing, error) {
	asked, err := c.ApplyAnnotations(annotations)
	if err != nil {
		return sizing{}, err
	}
	pod, err := virtcontainers.PodResources(annotations)
	if err != nil {
		return sizing{}, err
	}
	size, most := virtcontainers.Size(asked), virtcontainers.Size(c.Limits())
	for _, r := range append(limits, pod) {
		if size, err = virtcontainers.SizeFor(size, most, r); err != nil {
			return sizing{}, err
		}
	}
	if config.FixesVCPUs(annotations) {
		size.VCPUs = asked.VCPUs
		return sizing{size: size, leastCPUs: asked.VCPUs, mostCPUs: asked.VCPUs}, nil
	}
	return sizing{size: size, leastCPUs: asked.VCPUs, mostCPUs: virtcontainers.RoomFor(size.VCPUs, most.VCPUs)}, nil
}

// writeEtc writes the files of the pod's containers in /etc, and gives their paths
// by name.
func (s *Sandbox) writeEtc(contents map[string]string) (map[string]string, error) {
	dir := filepath.Join(s.opts.Dir, "etc")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("making the pod's files: %w", err)
	}
	paths := make(map[string]string)
	for name, content := range contents {
		paths[name] = filepath.Join(dir, name)
		if err := os.WriteFile(paths[name], []byte(content), 0o644); err != nil {
			return nil, fmt.Errorf("making the pod's files: %w", err)
		}
	}
	return paths, nil
}

// machine gives the sandbox's guest. If there is none, one boots on h, whose
// containers have the files of etc.
func (s *Sandbox) machine(h hardware, etc map[string]string) (*guest, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.guest == nil {
		s.booted, s.etc = true, etc
	}
	return s.machineLocked(h)
}

func (s *Sandbox) machineLocked(h hardware) (*guest, error) {
	if s.stopped {
		return nil, s.stoppedError()
	}
	if s.guest == nil {
		s.guest = newGuest(s, h)
		s.tasks.Go(s.guest.run)
	}
	return s.guest, nil
}
