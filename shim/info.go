package shim

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/containerd/containerd/api/types"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/opencontainers/runtime-spec/specs-go/features"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// featuresType is how containerd names the OCI features, encoded as JSON.
const featuresType = "types.containerd.io/opencontainers/runtime-spec/1/features/Features"

// printInfo answers -info: standard input holds a task's options, which it
// gives back, standard output gets a RuntimeInfo.
func printInfo(r io.Reader, w io.Writer) error {
	input, err := readBounded(r, maxBootstrap)
	if err != nil {
		return fmt.Errorf("read the runtime's options: %w", err)
	}
	info := &types.RuntimeInfo{Name: Name, Version: &types.RuntimeVersion{}}
	info.Version.Version, info.Version.Revision = buildVersion()
	if len(input) > 0 {
		info.Options = &anypb.Any{}
		if err := proto.Unmarshal(input, info.Options); err != nil {
			return fmt.Errorf("decode the runtime's options (%w): %w", err, errdefs.ErrInvalidArgument)
		}
	}
	f, err := json.Marshal(runtimeFeatures())
	if err != nil {
		return fmt.Errorf("encode the runtime's features: %w", err)
	}
	info.Features = &anypb.Any{TypeUrl: featuresType, Value: f}
	out, err := proto.Marshal(info)
	if err != nil {
		return fmt.Errorf("encode the runtime's info: %w", err)
	}
	_, err = w.Write(out)
	return err
}

// mountOptions are those of mounts that are not just passed on to the file system.
func mountOptions() []string {
	options := []string{
		"bind", "rbind", "defaults", "remount", "tmpcopyup",
		"private", "rprivate", "slave", "rslave", "shared", "rshared", "unbindable", "runbindable",
		"async", "sync", "dirsync", "lazytime", "nolazytime", "iversion", "noiversion", "loud", "silent", "mand", "nomand",
	}
	// Each also with all that is mounted below.
	for _, o := range []string{
		"ro", "rw", "suid", "nosuid", "dev", "nodev", "exec", "noexec", "atime", "noatime", "diratime", "nodiratime",
		"relatime", "norelatime", "strictatime", "nostrictatime", "symfollow", "nosymfollow",
	} {
		options = append(options, o, "r"+o)
	}
	return options
}

// runtimeFeatures is what holds for every guest. What is left out is unknown,
// not denied.
func runtimeFeatures() features.Features {
	yes, no := true, false
	return features.Features{
		OCIVersionMin: "1.0.0",
		OCIVersionMax: specs.Version,
		MountOptions:  mountOptions(),
		Hooks:         []string{"prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"},
		Linux: &features.Linux{
			Namespaces: []string{"cgroup", "ipc", "mount", "network", "pid", "user", "uts"},
			// The guest's; the host's layout does not matter.
			Cgroup:   &features.Cgroup{V1: &no, V2: &yes, Systemd: &no, SystemdUser: &no},
			Seccomp:  &features.Seccomp{Enabled: &yes},
			Apparmor: &features.Apparmor{Enabled: &no},
			Selinux:  &features.Selinux{Enabled: &no},
			MountExtensions: &features.MountExtensions{
				// By the host's mounts, where its kernel and the file system can.
				IDMap: &features.IDMap{Enabled: &yes},
			},
		},
	}
}
