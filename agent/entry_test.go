package agent

import (
	"errors"
	"os"
	"reflect"
	"slices"
	"testing"

	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"

	"github.com/hyperhq/hyper/agent/reexec"
)

func TestEntryEnvironment(t *testing.T) {
	for _, c := range []struct {
		env, want []string
		findHome  bool
		bad       bool
	}{
		{env: nil, want: nil, findHome: true},
		{env: []string{"A=1", "HOME=/h"}, want: []string{"A=1", "HOME=/h"}},
		{env: []string{"A=1", "B=", "A=2"}, want: []string{"B=", "A=2"}, findHome: true},
		{env: []string{"HOME=/h", "HOME="}, want: []string{}, findHome: true},
		{env: []string{"HOME=", "HOME=/h", "A=b=c"}, want: []string{"HOME=/h", "A=b=c"}},
		{env: []string{"A"}, bad: true},
		{env: []string{"=A"}, bad: true},
		{env: []string{""}, bad: true},
	} {
		got, findHome, ok := entryEnvironment(c.env)
		if ok == c.bad || ok && (!slices.Equal(got, c.want) || findHome != c.findHome) {
			t.Errorf("%q: %q, home to be found %v, %v", c.env, got, findHome, ok)
		}
	}
}

// TestEntryOf: what the process says goes before what the container says, and what the
// usher does not know is not its.
func TestEntryOf(t *testing.T) {
	known := knownCapabilities{"CAP_A": 1, "CAP_B": 2}
	umask, score, no := uint32(0o22), 5, false
	config := func() *configs.Config {
		return &configs.Config{
			Namespaces: configs.Namespaces{{Type: configs.NEWNS}}, NoNewPrivileges: true, Umask: &umask, OomScoreAdj: &score,
			Capabilities: &configs.Capabilities{Bounding: []string{"CAP_A"}},
			Rlimits:      []configs.Rlimit{{Type: 1, Soft: 2, Hard: 3}},
		}
	}
	process := func() *libcontainer.Process {
		return &libcontainer.Process{Args: []string{"a"}, Cwd: "/", Env: []string{"A=1"}, UID: 1, GID: 2, AdditionalGroups: []int{3}}
	}
	got, err := entryOf("id", config(), process(), known)
	want := &reexec.Entry{
		Args: []string{"a"}, Environment: []string{"A=1"}, Directory: "/", Keyring: "_ses.id", UID: 1, GID: 2, Groups: []uint32{3},
		Limits: []reexec.Limit{{Resource: 1, Soft: 2, Hard: 3}}, Bounding: 1, NoNewPrivileges: true, FindHome: true, Umask: &umask, OOMScoreAdj: &score,
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("by the container: %+v %v, want %+v", got, err, want)
	}
	lp := process()
	lp.NoNewPrivileges, lp.Rlimits = &no, []configs.Rlimit{{Type: 7, Soft: 8, Hard: 9}}
	lp.Capabilities = &configs.Capabilities{Effective: []string{"CAP_A", "CAP_B"}, Ambient: []string{"CAP_B"}}
	want.NoNewPrivileges, want.Limits = false, []reexec.Limit{{Resource: 7, Soft: 8, Hard: 9}}
	want.Bounding, want.Effective, want.Ambient = 0, 3, 2
	if got, err := entryOf("id", config(), lp, known); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("by the process: %+v %v, want %+v", got, err, want)
	}
	for name, change := range map[string]func(*configs.Config, *libcontainer.Process){
		"user namespace":     func(c *configs.Config, _ *libcontainer.Process) { c.Namespaces.Add(configs.NEWUSER, "") },
		"time namespace":     func(c *configs.Config, _ *libcontainer.Process) { c.Namespaces.Add(configs.NEWTIME, "") },
		"the guest's mounts": func(c *configs.Config, _ *libcontainer.Process) { c.Namespaces.Remove(configs.NEWNS) },
		"seccomp":            func(c *configs.Config, _ *libcontainer.Process) { c.Seccomp = &configs.Seccomp{} },
		"personality":        func(c *configs.Config, _ *libcontainer.Process) { c.Personality = &configs.LinuxPersonality{} },
		"scheduler":          func(_ *configs.Config, p *libcontainer.Process) { p.Scheduler = &configs.Scheduler{} },
		"priority of I/O":    func(_ *configs.Config, p *libcontainer.Process) { p.IOPriority = &configs.IOPriority{} },
		"processors":         func(_ *configs.Config, p *libcontainer.Process) { p.CPUAffinity = &configs.CPUAffinity{} },
		"terminal":           func(_ *configs.Config, p *libcontainer.Process) { p.ConsoleSocket = os.Stdin },
		"unknown capability": func(_ *configs.Config, p *libcontainer.Process) {
			p.Capabilities = &configs.Capabilities{Bounding: []string{"CAP_C"}}
		},
		"no capabilities": func(c *configs.Config, _ *libcontainer.Process) { c.Capabilities = nil },
		"a part of the cgroup": func(_ *configs.Config, p *libcontainer.Process) {
			p.SubCgroupPaths = map[string]string{"": "a"}
		},
		"policy of memory": func(c *configs.Config, _ *libcontainer.Process) { c.MemoryPolicy = &configs.LinuxMemoryPolicy{} },
	} {
		c, p := config(), process()
		change(c, p)
		if got, err := entryOf("id", c, p, known); !errors.Is(err, errUnusual) {
			t.Errorf("%s: %+v %v", name, got, err)
		}
	}
}
