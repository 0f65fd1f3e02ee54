package agent

import (
	"encoding/json"
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runc/libcontainer/specconv"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/sirupsen/logrus"

	"github.com/containerd/errdefs"
)

const (
	maxSpec = 4 << 20
	maxID   = 128
	maxArgs = 64 << 10
)

// validateID refuses an id that is not fit to be a file's name.
func validateID(what, id string) error {
	if id == "" || len(id) > maxID || id == "." || id == ".." {
		return fmt.Errorf("%s %.140q: want 1 to %d characters: %w", what, id, maxID, errdefs.ErrInvalidArgument)
	}
	for _, c := range []byte(id) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
		case c == '_', c == '+', c == '-', c == '.':
		default:
			return fmt.Errorf("%s %q: want letters, digits and any of _+-. only: %w", what, id, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

// decodeJSON decodes what of an OCI document, at most maxSpec bytes of it.
func decodeJSON(what string, data []byte, into any) error {
	if len(data) > maxSpec {
		return fmt.Errorf("%s of %d bytes, at most %d: %w", what, len(data), maxSpec, errdefs.ErrInvalidArgument)
	}
	if err := json.Unmarshal(data, into); err != nil {
		return fmt.Errorf("decoding %s: %v: %w", what, err, errdefs.ErrInvalidArgument)
	}
	return nil
}

// decodeSpec reads a container's OCI configuration, and makes what is left open
// in it definite.
func decodeSpec(id string, data []byte) (*specs.Spec, error) {
	spec := &specs.Spec{}
	if err := decodeJSON("the container's OCI spec", data, spec); err != nil {
		return nil, err
	}
	if spec.Root == nil || !filepath.IsAbs(spec.Root.Path) {
		return nil, fmt.Errorf("the OCI spec has no absolute root.path: %w", errdefs.ErrInvalidArgument)
	}
	if err := validateProcess(spec.Process); err != nil {
		return nil, err
	}
	if spec.Linux == nil {
		spec.Linux = &specs.Linux{}
	}
	// A path of its own below the root, whatever the path says of parents.
	spec.Linux.CgroupsPath = path.Clean("/" + spec.Linux.CgroupsPath)
	if spec.Linux.CgroupsPath == "/" {
		spec.Linux.CgroupsPath = "/" + id
	}
	// These name policies of a security module in the host's kernel. The guest's
	// kernel has none, and would refuse them.
	spec.Linux.MountLabel = ""
	// The names of a UTS namespace that it shares are set where that is made.
	if !hasNamespace(spec, specs.UTSNamespace) {
		spec.Hostname, spec.Domainname = "", ""
	}
	return spec, nil
}

// hasNamespace says whether the spec has such a namespace, new or joined.
func hasNamespace(spec *specs.Spec, kind specs.LinuxNamespaceType) bool {
	return slices.ContainsFunc(spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == kind })
}

func decodeProcess(data []byte) (*specs.Process, error) {
	p := &specs.Process{}
	if err := decodeJSON("the OCI process", data, p); err != nil {
		return nil, err
	}
	return p, validateProcess(p)
}

func validateProcess(p *specs.Process) error {
	switch {
	case p == nil:
		return fmt.Errorf("the OCI spec has no process: %w", errdefs.ErrInvalidArgument)
	case len(p.Args) == 0:
		return fmt.Errorf("the OCI process has no args: %w", errdefs.ErrInvalidArgument)
	case len(p.Args) > maxArgs || len(p.Env) > maxArgs:
		return fmt.Errorf("the OCI process has more than %d args or variables: %w", maxArgs, errdefs.ErrInvalidArgument)
	case !filepath.IsAbs(p.Cwd):
		return fmt.Errorf("the OCI process's cwd %q is not an absolute path: %w", p.Cwd, errdefs.ErrInvalidArgument)
	}
	p.SelinuxLabel, p.ApparmorProfile = "", "" // as in decodeSpec
	return nil
}

// containerConfig translates a spec of decodeSpec for libcontainer.
func containerConfig(id string, spec *specs.Spec) (*configs.Config, error) {
	config, err := specconv.CreateLibcontainerConfig(&specconv.CreateOpts{CgroupName: id, Spec: spec})
	if err != nil {
		return nil, fmt.Errorf("the OCI spec of container %s: %v: %w", id, err, errdefs.ErrInvalidArgument)
	}
	for i, label := range config.Labels {
		// Hooks are told of it. libcontainer takes the working directory for it.
		if label == "bundle=/" {
			config.Labels[i] = "bundle=" + filepath.Dir(spec.Root.Path)
		}
	}
	return config, nil
}

// cgroupResources translates OCI resources, except the device rules, for
// libcontainer.
func cgroupResources(r *specs.LinuxResources) (*cgroups.Resources, error) {
	wanted := *r
	wanted.Devices = nil
	cg, err := specconv.CreateCgroupConfig(&specconv.CreateOpts{
		CgroupName: "update",
		Spec:       &specs.Spec{Linux: &specs.Linux{Resources: &wanted}},
	}, nil)
	if err != nil {
		return nil, fmt.Errorf("the OCI resources: %v: %w", err, errdefs.ErrInvalidArgument)
	}
	cg.Resources.SkipDevices = true
	return cg.Resources, nil
}

// libcontainerProcess translates an OCI process.
func libcontainerProcess(p *specs.Process) (*libcontainer.Process, error) {
	lp := &libcontainer.Process{
		Args:            p.Args,
		Env:             p.Env,
		Cwd:             p.Cwd,
		UID:             int(p.User.UID),
		GID:             int(p.User.GID),
		NoNewPrivileges: &p.NoNewPrivileges,
		Scheduler:       p.Scheduler,
		IOPriority:      p.IOPriority,
		// By default the way into the container tells of its every step, for nobody,
		// in formatted text that the agent then has to parse.
		LogLevel: strconv.Itoa(int(logrus.WarnLevel)),
	}
	for _, gid := range p.User.AdditionalGids {
		lp.AdditionalGroups = append(lp.AdditionalGroups, int(gid))
	}
	if c := p.Capabilities; c != nil {
		lp.Capabilities = &configs.Capabilities{
			Bounding: c.Bounding, Effective: c.Effective, Inheritable: c.Inheritable,
			Permitted: c.Permitted, Ambient: c.Ambient,
		}
	}
	for _, r := range p.Rlimits {
		resource, err := rlimitResource(r.Type)
		if err != nil {
			return nil, err
		}
		lp.Rlimits = append(lp.Rlimits, configs.Rlimit{Type: resource, Hard: r.Hard, Soft: r.Soft})
	}
	affinity, err := configs.ConvertCPUAffinity(p.ExecCPUAffinity)
	if err != nil {
		return nil, fmt.Errorf("the OCI process's CPU affinity: %v: %w", err, errdefs.ErrInvalidArgument)
	}
	lp.CPUAffinity = affinity
	return lp, nil
}
