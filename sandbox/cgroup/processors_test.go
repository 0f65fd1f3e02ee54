package cgroup

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// files makes files of a made-up cgroup.
func files(t *testing.T, dir string, names ...string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func content(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Error(err)
	}
	return strings.TrimSpace(string(b))
}

// TestLimitCPUsOfBothVersions writes to files as the two versions have them.
func TestLimitCPUsOfBothVersions(t *testing.T) {
	first, second, none := t.TempDir(), t.TempDir(), t.TempDir()
	files(t, filepath.Join(first, "a/b"), "cpu.cfs_quota_us", "cpu.cfs_period_us")
	files(t, filepath.Join(second, "a/b"), "cpu.max")
	files(t, filepath.Join(none, "a/b"), "pids.max")
	g := &Group{path: "/a/b", hierarchies: []hierarchy{{mount: first}, {mount: second}, {mount: none}}}
	if err := g.LimitCPUs(3); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		first + "/a/b/cpu.cfs_quota_us":  "300000",
		first + "/a/b/cpu.cfs_period_us": "100000",
		second + "/a/b/cpu.max":          "300000 100000",
	} {
		if got := content(t, path); got != want {
			t.Errorf("%s has %q, want %q", path, got, want)
		}
	}
	if left, err := os.ReadDir(filepath.Join(none, "a/b")); err != nil || len(left) != 1 {
		t.Errorf("a group without the controller has %v, %v", left, err)
	}
}

// TestLimitCPUs limits a group of version 1 of this host, and one that is below another with less.
func TestLimitCPUs(t *testing.T) {
	const controller = "/sys/fs/cgroup/cpu"
	if os.Geteuid() != 0 {
		t.Skip("only root can make cgroups")
	}
	if _, err := os.Stat(controller); err != nil {
		t.Skipf("no cgroups of version 1 here: %v", err)
	}
	h := hierarchy{mount: controller}
	above := groupAbovePod(t, h)
	g := &Group{path: above + "/pod", hierarchies: []hierarchy{h}}
	quota := h.dir(g.path) + "/cpu.cfs_quota_us"
	for _, count := range []uint32{2, 5, 1} {
		if err := g.LimitCPUs(count); err != nil || content(t, quota) != fmt.Sprint(count*cpuPeriod) {
			t.Errorf("of %d it has %s, %v", count, content(t, quota), err)
		}
	}
	if err := set(h.dir(above)+"/cpu.cfs_quota_us", "150000"); err != nil {
		t.Fatal(err)
	}
	if err := g.LimitCPUs(4); err != nil || content(t, quota) != "100000" {
		t.Errorf("more than the group above: it has %s, %v", content(t, quota), err)
	}
}

// TestLimitCPUsOfVersion2 limits a group of this host.
func TestLimitCPUsOfVersion2(t *testing.T) {
	const mount = "/sys/fs/cgroup"
	if os.Geteuid() != 0 {
		t.Skip("only root can make cgroups")
	}
	if has, err := os.ReadFile(filepath.Join(mount, "cgroup.controllers")); err != nil || !strings.Contains(" "+string(has), " cpu ") {
		t.Skipf("no processor time in cgroups of version 2 here: %q, %v", has, err)
	}
	h := hierarchy{mount: mount, unified: true}
	needDelegation(t, h, "cpu")
	above := groupAbovePod(t, h)
	h.delegate(above + "/pod")
	if err := h.limitCPUs(above+"/pod", 3); err != nil {
		t.Fatal(err)
	}
	if got := content(t, h.dir(above+"/pod/cpu.max")); got != "300000 100000" {
		t.Errorf("the group may use %q", got)
	}
}

// groupAbovePod makes a group with another in it, called pod.
func groupAbovePod(t *testing.T, h hierarchy) string {
	t.Helper()
	above := fmt.Sprintf("/hyper-test-cpus-%d", os.Getpid())
	if err := os.MkdirAll(h.dir(above+"/pod"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, dir := range []string{above + "/pod", above} {
			if err := os.Remove(h.dir(dir)); err != nil {
				t.Error(err)
			}
		}
	})
	return above
}
