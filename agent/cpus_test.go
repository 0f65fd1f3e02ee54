package agent

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/containerd/errdefs"
)

// fakeCPUs is what a kernel tells of its processors, in files that nothing changes.
// online says which can be taken into use, and whether they are.
func fakeCPUs(t *testing.T, present string, online map[int]string) *cpus {
	t.Helper()
	dir := t.TempDir()
	write := func(name, content string) {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("present", present)
	var list []string
	for cpu, is := range online {
		write(filepath.Join("cpu"+strconv.Itoa(cpu), "online"), is)
		if is == "1" {
			list = append(list, strconv.Itoa(cpu))
		}
	}
	write("online", strings.Join(append(list, "0"), ","))
	return &cpus{sysfs: dir, cgroups: filepath.Join(dir, "none")}
}

func TestSetCPUs(t *testing.T) {
	c := fakeCPUs(t, "0-3", map[int]string{1: "1", 2: "0", 3: "0"})
	if have, why, err := c.set(t.Context(), 3); have != 2 || why != "" || err != nil {
		t.Errorf("a kernel that does nothing: %d, %q, %v", have, why, err)
	}
	for cpu, want := range map[int]string{1: "1\n", 2: "1", 3: "0\n"} {
		if got, err := os.ReadFile(filepath.Join(c.sysfs, "cpu"+strconv.Itoa(cpu), "online")); string(got) != want {
			t.Errorf("processor %d was told %q (%v), want %q", cpu, got, err, want)
		}
	}
	if have, why, err := c.set(t.Context(), 5); have != 2 || !strings.Contains(why, "has 4") || err != nil {
		t.Errorf("more than there are: %d, %q, %v", have, why, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := c.set(ctx, 1); !errors.Is(err, context.Canceled) {
		t.Errorf("nobody waits: %v", err)
	}
}

// TestFixedCPUs is a kernel without CONFIG_HOTPLUG_CPU.
func TestFixedCPUs(t *testing.T) {
	c := fakeCPUs(t, "0-1", nil)
	if have, why, err := c.set(t.Context(), 2); have != 1 || !strings.Contains(why, "CONFIG_HOTPLUG_CPU") || err != nil {
		t.Errorf("%d, %q, %v", have, why, err)
	}
	if have, why, err := c.set(t.Context(), 1); have != 1 || why != "" || err != nil {
		t.Errorf("what there is: %d, %q, %v", have, why, err)
	}
}

func TestConfine(t *testing.T) {
	c := fakeCPUs(t, "0-3", nil)
	for set, want := range map[string]string{"": "", "0": "0", "0-9": "0,1,2,3", "2,5": "2", "4": "!", "x": "!", "3-1": "!", "0,": "!"} {
		r := &specs.LinuxResources{CPU: &specs.LinuxCPU{Cpus: set}}
		err := c.confine(r)
		if (want == "!") != errdefs.IsInvalidArgument(err) || want != "!" && (err != nil || r.CPU.Cpus != want) {
			t.Errorf("%q: %q, %v; want %q", set, r.CPU.Cpus, err, want)
		}
	}
	if err := errors.Join(c.confine(nil), c.confine(&specs.LinuxResources{})); err != nil {
		t.Error(err)
	}
}

func FuzzParseCPUs(f *testing.F) {
	for _, list := range []string{"0", "0-2,5", "1-", "0-4294967295", ","} {
		f.Add(list)
	}
	f.Fuzz(func(t *testing.T, list string) {
		set, err := parseCPUs(list)
		if (set == nil) == (err == nil) {
			t.Fatalf("%q: %v, %v", list, set, err)
		}
	})
}
