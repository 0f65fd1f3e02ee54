package agent

import (
	"encoding/binary"
	"encoding/json"
	"path"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/containerd/errdefs"
)

func TestParseCmdline(t *testing.T) {
	for _, c := range []struct {
		line string
		want options
		fail bool
	}{
		{"", options{}, false},
		{"console=ttyS0 quiet hyper.channel=serial", options{}, false},
		{"hyper.channel=vsock:1024 hyper.log=debug\n", options{vsockPort: 1024, debug: true}, false},
		{"hyper.log=loud", options{}, false},
		{"hyper.channel=vsock", options{}, true},
		{"hyper.channel=vsock:0", options{}, true},
		{"hyper.channel=vsock:4294967296", options{}, true},
		{"hyper.channel=tcp:1", options{}, true},
		{"hyper.channel=", options{}, true},
		{strings.Repeat("x", maxCmdline+1), options{}, true},
	} {
		got, err := parseCmdline(c.line)
		if (err != nil) != c.fail || err == nil && got != c.want {
			t.Errorf("%.60q: %+v, %v", c.line, got, err)
		}
	}
}

func FuzzParseCmdline(f *testing.F) {
	for _, s := range []string{"", "hyper.channel=serial", "hyper.channel=vsock:1 hyper.log=debug", "hyper.channel=vsock:-1", "= == a=\x00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, line string) {
		o, err := parseCmdline(line)
		if err == nil && o.vsockPort != 0 && !strings.Contains(line, "vsock:") {
			t.Errorf("%q gave port %d", line, o.vsockPort)
		}
	})
}

func TestParseModuleList(t *testing.T) {
	got, err := parseModuleList("/lib/a.ko\n\n# comment\n  /lib/b.ko \n")
	if err != nil || !slices.Equal(got, []string{"/lib/a.ko", "/lib/b.ko"}) {
		t.Errorf("%v %v", got, err)
	}
	if _, err := parseModuleList("a.ko\n"); err == nil {
		t.Error("a relative path was accepted")
	}
}

func TestMountArgs(t *testing.T) {
	flags, data, err := mountArgs([]string{"ro", "nosuid", "size=1m", "rw", "mode=755", "noexec"})
	if err != nil || flags != unix.MS_NOSUID|unix.MS_NOEXEC || data != "size=1m,mode=755" {
		t.Errorf("%#x %q %v", flags, data, err)
	}
	for _, bad := range [][]string{{strings.Repeat("x", maxMountData)}, {"a\x00b"}} {
		if _, _, err := mountArgs(bad); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%.20q: %v", bad, err)
		}
	}
}

func TestValidateID(t *testing.T) {
	for _, good := range []string{"a", "A-b_c.d+9", strings.Repeat("x", maxID)} {
		if err := validateID("id", good); err != nil {
			t.Error(err)
		}
	}
	for _, bad := range []string{"", ".", "..", "a/b", "a b", "ä", "a\x00", strings.Repeat("x", maxID+1)} {
		if err := validateID("id", bad); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%.20q: %v", bad, err)
		}
	}
}

func TestDecodeSpecMakesTheCgroupItsOwn(t *testing.T) {
	for given, want := range map[string]string{
		"": "/id", "/": "/id", "/..": "/id", "hyper/x": "/hyper/x", "/hyper/x": "/hyper/x", "../../x": "/x",
	} {
		spec := testSpec("id", "true")
		spec.Linux.CgroupsPath = given
		spec.Linux.MountLabel, spec.Process.ApparmorProfile, spec.Process.SelinuxLabel = "l", "a", "s"
		data, _ := json.Marshal(spec)
		got, err := decodeSpec("id", data)
		if err != nil {
			t.Fatal(err)
		}
		if got.Linux.CgroupsPath != want {
			t.Errorf("%q became %q, want %q", given, got.Linux.CgroupsPath, want)
		}
		if got.Linux.MountLabel+got.Process.ApparmorProfile+got.Process.SelinuxLabel != "" {
			t.Error("labels of the host's security modules are kept")
		}
	}
}

func TestDecodeSpecIsBounded(t *testing.T) {
	if _, err := decodeSpec("id", make([]byte, maxSpec+1)); !errdefs.IsInvalidArgument(err) {
		t.Error(err)
	}
	spec := testSpec("id", "true")
	spec.Process.Env = make([]string, maxArgs+1)
	data, _ := json.Marshal(spec)
	if _, err := decodeSpec("id", data); !errdefs.IsInvalidArgument(err) {
		t.Error(err)
	}
}

// Whatever the host sends as a spec ends as an error or a configuration, which
// names no cgroup but one below the root.
func FuzzDecodeSpec(f *testing.F) {
	good, _ := json.Marshal(testSpec("id", "true"))
	f.Add(good)
	f.Add([]byte(`{}`))
	f.Add([]byte(`{"root":{"path":"/r"},"process":{"args":["a"],"cwd":"/"},"linux":{"cgroupsPath":"../..","namespaces":[{"type":"user"}]}}`))
	f.Add([]byte(`{"root":{"path":"/r"},"process":{"args":["a"],"cwd":"/"},"hooks":{},"mounts":[{"options":["idmap"]}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		spec, err := decodeSpec("id", data)
		if err != nil {
			return
		}
		if p := spec.Linux.CgroupsPath; p == "/" || path.Clean("/"+p) != p {
			t.Errorf("cgroup %q", p)
		}
		if _, err := containerConfig("id", spec); err != nil {
			return
		}
		_, _ = libcontainerProcess(spec.Process)
	})
}

func TestLibcontainerProcess(t *testing.T) {
	p := execSpec("a", "b")
	p.User = specs.User{UID: 1, GID: 2, AdditionalGids: []uint32{3}}
	p.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_CORE", Soft: 4, Hard: 5}}
	lp, err := libcontainerProcess(p)
	if err != nil || lp.UID != 1 || lp.GID != 2 || !slices.Equal(lp.AdditionalGroups, []int{3}) || !*lp.NoNewPrivileges ||
		lp.Rlimits[0].Type != unix.RLIMIT_CORE || lp.Rlimits[0].Soft != 4 {
		t.Errorf("%+v %v", lp, err)
	}
	p.Rlimits[0].Type = "RLIMIT_FOO"
	if _, err := libcontainerProcess(p); !errdefs.IsInvalidArgument(err) {
		t.Error(err)
	}
}

func TestSplitAffinity(t *testing.T) {
	p := execSpec("true")
	p.ExecCPUAffinity = &specs.CPUAffinity{Initial: "0"}
	lp, err := libcontainerProcess(p)
	if err != nil {
		t.Fatal(err)
	}
	first := splitAffinity(lp, nil)
	if first == nil || !first.IsSet(0) || lp.CPUAffinity.Initial != nil || !lp.CPUAffinity.Final.IsSet(0) {
		t.Errorf("%v %+v", first, lp.CPUAffinity)
	}
	lp.CPUAffinity = nil
	if splitAffinity(lp, nil) != nil || lp.CPUAffinity != nil {
		t.Error("an affinity out of nothing")
	}
}

func TestMergeResources(t *testing.T) {
	limit, shares := int64(1), uint64(2)
	old := &specs.LinuxResources{
		Memory: &specs.LinuxMemory{Limit: &limit}, CPU: &specs.LinuxCPU{Shares: &shares},
		Unified: map[string]string{"memory.high": "5"},
	}
	got, err := mergeResources(old, []byte(`{"memory":{"swap":9},"cpu":{"shares":7},"pids":{"limit":3}}`))
	if err != nil {
		t.Fatal(err)
	}
	if *got.Memory.Limit != 1 || *got.Memory.Swap != 9 || *got.CPU.Shares != 7 || *got.Pids.Limit != 3 || got.Unified["memory.high"] != "5" {
		t.Errorf("%+v", got)
	}
	if *old.CPU.Shares != 2 || old.Pids != nil {
		t.Error("the old resources were changed")
	}
	if _, err := mergeResources(old, []byte("[")); !errdefs.IsInvalidArgument(err) {
		t.Error(err)
	}
}

func TestParseKeyed(t *testing.T) {
	got := parseKeyed("low 0\noom_kill 3\nbad\nworse x\n\nmax 18446744073709551615\n")
	want := map[string]uint64{"low": 0, "oom_kill": 3, "max": 1<<64 - 1}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%v", got)
	}
}

func FuzzParseKeyed(f *testing.F) {
	f.Add("a 1\nb 2")
	f.Add(" \n 1\n")
	f.Fuzz(func(t *testing.T, data string) { parseKeyed(data) })
}

func inotifyEvent(wd int32, mask uint32, name string) []byte {
	b := binary.NativeEndian.AppendUint32(nil, uint32(wd))
	b = binary.NativeEndian.AppendUint32(b, mask)
	b = binary.NativeEndian.AppendUint32(b, 0)
	b = binary.NativeEndian.AppendUint32(b, uint32(len(name)))
	return append(b, name...)
}

func TestModified(t *testing.T) {
	buf := slices.Concat(inotifyEvent(3, unix.IN_MODIFY, "name\x00\x00\x00\x00"), inotifyEvent(3, unix.IN_IGNORED, ""), inotifyEvent(5, unix.IN_MODIFY, ""))
	if got := modified(buf); !slices.Equal(got, []int{3, 5}) {
		t.Errorf("%v", got)
	}
}

func FuzzModified(f *testing.F) {
	f.Add(inotifyEvent(1, unix.IN_MODIFY, "abc"))
	f.Add(inotifyEvent(1, unix.IN_MODIFY, "")[:10])
	f.Add(append(inotifyEvent(1, unix.IN_MODIFY, ""), 0xff, 0xff))
	f.Fuzz(func(t *testing.T, buf []byte) {
		if n := len(modified(buf)); n > len(buf)/unix.SizeofInotifyEvent {
			t.Errorf("%d events in %d bytes", n, len(buf))
		}
	})
}
