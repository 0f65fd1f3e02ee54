package virtcontainers

import (
	"fmt"
	"strconv"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// Role is how a container stands to the sandbox that it runs in.
type Role int

const (
	// Alone is a container of no Kubernetes pod.
	Alone Role = iota
	// PodSandbox is a pod's first container, which holds its namespaces.
	PodSandbox
	// PodMember joins the namespaces of its pod.
	PodMember
)

// The annotations by which containerd's CRI plugin tells a pod's containers.
const (
	annotationContainerType = "io.kubernetes.cri.container-type"
	annotationSandboxID     = "io.kubernetes.cri.sandbox-id"
	annotationPodMemory     = "io.kubernetes.cri.sandbox-memory"
	annotationPodCPUQuota   = "io.kubernetes.cri.sandbox-cpu-quota"
	annotationPodCPUPeriod  = "io.kubernetes.cri.sandbox-cpu-period"
)

// RoleOf reads a container's annotations.
func RoleOf(annotations map[string]string) Role {
	switch annotations[annotationContainerType] {
	case "sandbox":
		return PodSandbox
	case "container":
		return PodMember
	}
	return Alone
}

// Pod is what a container makes of the sandbox that it is the first of.
type Pod struct {
	// Hostname is the guest's own; empty leaves the sandbox's id.
	Hostname string
	// Sysctls are of the namespaces that the sandbox shares with its containers.
	Sysctls map[string]string
	// NetNS is the path of the network namespace on the host whose interfaces
	// the guest gets; empty is a new one.
	NetNS string
	// HostNetwork says that the pod is to have the host's own network, which no
	// guest can share.
	HostNetwork bool
	// SHM is the directory on the host that stands for what the pod's containers
	// share as /dev/shm; empty if there is none.
	SHM string
	// Cgroup is the linux.cgroupsPath of what the sandbox has on the host; empty
	// leaves it where it is.
	Cgroup string
}

// PodOf is what a sandbox's own configuration says of it, where no container of
// it runs.
func PodOf(spec *specs.Spec) Pod {
	pod := Pod{Hostname: spec.Hostname}
	if spec.Linux == nil {
		return pod
	}
	pod.Sysctls, pod.Cgroup = spec.Linux.Sysctl, spec.Linux.CgroupsPath
	pod.HostNetwork = true
	for _, ns := range spec.Linux.Namespaces {
		if ns.Type == specs.NetworkNamespace {
			pod.NetNS, pod.HostNetwork = ns.Path, false
		}
	}
	return pod
}

// PodResources are the limits of a pod as a whole, as far as containerd's CRI
// plugin knows them when it makes the pod; nil if it does not.
func PodResources(annotations map[string]string) (*specs.LinuxResources, error) {
	if RoleOf(annotations) != PodSandbox {
		return nil, nil
	}
	number := func(name string) (*int64, error) {
		text := annotations[name]
		if text == "" {
			return nil, nil
		}
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil || n < 0 {
			return nil, fmt.Errorf("annotation %s is %q, want a number: %w", name, text, errdefs.ErrInvalidArgument)
		}
		return &n, nil
	}
	memory, err := number(annotationPodMemory)
	if err != nil {
		return nil, err
	}
	quota, err := number(annotationPodCPUQuota)
	if err != nil {
		return nil, err
	}
	period, err := number(annotationPodCPUPeriod)
	if err != nil {
		return nil, err
	}
	r := &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: memory}, CPU: &specs.LinuxCPU{Quota: quota}}
	if period != nil {
		p := uint64(*period)
		r.CPU.Period = &p
	}
	return r, nil
}
