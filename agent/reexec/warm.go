package reexec

import (
	"encoding/json"

	"github.com/opencontainers/cgroups"
	devices "github.com/opencontainers/cgroups/devices/config"
	"github.com/opencontainers/runc/libcontainer/configs"
)

// warm has package json learn the types of a container's configuration, which
// takes it longer than to read one.
func warm() {
	data, err := json.Marshal(configs.Config{
		Mounts:       []*configs.Mount{{}},
		Devices:      []*devices.Device{{}},
		Namespaces:   configs.Namespaces{{}},
		Capabilities: &configs.Capabilities{},
		Networks:     []*configs.Network{{}},
		Cgroups:      &cgroups.Cgroup{Resources: &cgroups.Resources{Devices: []*devices.Rule{{}}}},
		Seccomp:      &configs.Seccomp{Syscalls: []*configs.Syscall{{Args: []*configs.Arg{{}}}}},
		Rlimits:      []configs.Rlimit{{}},
		Hooks:        configs.Hooks{},
	})
	if err == nil {
		_ = json.Unmarshal(data, new(configs.Config))
	}
}
