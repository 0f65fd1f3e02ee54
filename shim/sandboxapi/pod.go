package sandboxapi

import (
	"fmt"
	"path"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/anypb"
)

// podConfig is the type of a sandbox's options when CRI creates it, without the
// version of CRI.
const podConfig = "PodSandboxConfig"

// The numbers of the fields that we read of CRI's runtime.v1.PodSandboxConfig.
// Its Go package would be many times our size, and a shim runs for each pod.
const (
	podHostname      protowire.Number = 2
	podDNS           protowire.Number = 4 // DNSConfig
	dnsServers       protowire.Number = 1 // of that, each repeated
	dnsSearches      protowire.Number = 2
	dnsOptions       protowire.Number = 3
	podAnnotations   protowire.Number = 7 // map<string, string>
	podLinux         protowire.Number = 8 // LinuxPodSandboxConfig
	linuxParent      protowire.Number = 1 // of that: the parent of the pod's cgroup
	linuxSecurity    protowire.Number = 2 // LinuxSandboxSecurityContext
	linuxSysctls     protowire.Number = 3 // map<string, string>
	linuxResources   protowire.Number = 5 // LinuxContainerResources, of all containers
	securityOptions  protowire.Number = 1 // of that: NamespaceOption
	optionNetwork    protowire.Number = 1 // of that, each a NamespaceMode
	optionPID        protowire.Number = 2
	optionIPC        protowire.Number = 3
	modeNode                          = 2 // of NamespaceMode: the host's
	resourcesPeriod  protowire.Number = 1 // of that, in microseconds
	resourcesQuota   protowire.Number = 2 // in microseconds
	resourcesMemory  protowire.Number = 4 // in bytes
	mapKey, mapValue protowire.Number = 1, 2
)

// pod is what CRI says of a pod, as far as it says something of its machine.
type pod struct {
	isPod        bool // and not a sandbox of others
	dns          *dns // nil is the host's
	hostname     string
	annotations  map[string]string
	sysctls      map[string]string
	cgroupParent string
	hostNetwork  bool
	resources    specs.LinuxResources
}

// decodePod reads a sandbox's options. Those of others than CRI are not for us.
func decodePod(options *anypb.Any) (pod, error) {
	p := pod{annotations: make(map[string]string), sysctls: make(map[string]string)}
	if options == nil || path.Ext(options.TypeUrl) != "."+podConfig {
		return p, nil
	}
	p.isPod = true
	if err := p.decode(options.Value); err != nil {
		return pod{}, fmt.Errorf("decode %s: %w: %w", options.TypeUrl, err, errdefs.ErrInvalidArgument)
	}
	return p, nil
}

func (p *pod) decode(message []byte) error {
	return fields(message, func(n protowire.Number, f field) error {
		switch n {
		case podHostname:
			p.hostname = string(f.bytes)
		case podDNS:
			p.dns = &dns{}
			return fields(f.bytes, p.dns.take)
		case podAnnotations:
			return entry(p.annotations, f.bytes)
		case podLinux:
			return fields(f.bytes, p.linux)
		}
		return nil
	})
}

// linux takes one field of what is said of Linux.
func (p *pod) linux(n protowire.Number, f field) error {
	switch n {
	case linuxParent:
		p.cgroupParent = string(f.bytes)
	case linuxSecurity:
		return fields(f.bytes, func(n protowire.Number, f field) error {
			if n != securityOptions {
				return nil
			}
			return fields(f.bytes, p.namespace)
		})
	case linuxSysctls:
		return entry(p.sysctls, f.bytes)
	case linuxResources:
		return fields(f.bytes, p.limit)
	}
	return nil
}

// namespace takes the mode of one kind of namespaces. Those of the host are refused,
// but for its network, to which there is a way.
func (p *pod) namespace(n protowire.Number, f field) error {
	if n == optionNetwork {
		p.hostNetwork = f.varint == modeNode
		return nil
	}
	kind := map[protowire.Number]string{optionPID: "PID", optionIPC: "IPC"}[n]
	if kind != "" && f.varint == modeNode {
		return fmt.Errorf("the pod asks for the host's %s namespace, which a virtual machine does not share", kind)
	}
	return nil
}

// entry takes one entry of a map.
func entry(into map[string]string, message []byte) error {
	var key, value string
	err := fields(message, func(n protowire.Number, f field) error {
		switch n {
		case mapKey:
			key = string(f.bytes)
		case mapValue:
			value = string(f.bytes)
		}
		return nil
	})
	into[key] = value
	return err
}

// cgroup is the pod's own, below its parent, as linux.cgroupsPath has it: for
// systemd's slices with a unit's name, as containerd gives one to a container.
func (p *pod) cgroup(id string) string {
	switch {
	case p.cgroupParent == "":
		return ""
	case strings.HasSuffix(p.cgroupParent, ".slice"):
		return path.Base(p.cgroupParent) + ":cri-containerd:" + id
	}
	return path.Join(p.cgroupParent, id)
}

// limit takes one field of the pod's resources. Those that are not there are 0,
// which is no limit.
func (p *pod) limit(n protowire.Number, f field) error {
	value := int64(f.varint)
	switch n {
	case resourcesPeriod:
		period := f.varint
		p.cpu().Period = &period
	case resourcesQuota:
		p.cpu().Quota = &value
	case resourcesMemory:
		p.resources.Memory = &specs.LinuxMemory{Limit: &value}
	}
	return nil
}

func (p *pod) cpu() *specs.LinuxCPU {
	if p.resources.CPU == nil {
		p.resources.CPU = &specs.LinuxCPU{}
	}
	return p.resources.CPU
}

// field is the value of one field of a message, by its type on the wire.
type field struct {
	varint uint64
	bytes  []byte
}

// fields calls take with each field of a message.
func fields(message []byte, take func(protowire.Number, field) error) error {
	for len(message) > 0 {
		number, kind, n := protowire.ConsumeTag(message)
		if n < 0 {
			return protowire.ParseError(n)
		}
		message = message[n:]
		var f field
		switch kind {
		case protowire.VarintType:
			f.varint, n = protowire.ConsumeVarint(message)
		case protowire.BytesType:
			f.bytes, n = protowire.ConsumeBytes(message)
		default:
			n = protowire.ConsumeFieldValue(number, kind, message)
		}
		if n < 0 {
			return protowire.ParseError(n)
		}
		message = message[n:]
		if err := take(number, f); err != nil {
			return err
		}
	}
	return nil
}
