package cgroup

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/sys/mountinfo"
)

// findHierarchies finds where cgroups are mounted and where in each the process
// is: its /proc directory is proc. On a host that has both versions, the second is
// left out where it has no controllers, since then it accounts for nothing.
func findHierarchies(proc string) ([]hierarchy, error) {
	f, err := os.Open(filepath.Join(proc, "mountinfo"))
	if err != nil {
		return nil, fmt.Errorf("looking for cgroups: %w", err)
	}
	defer f.Close()
	mounts, err := mountinfo.GetMountsFromReader(f, mountinfo.FSTypeFilter("cgroup", "cgroup2"))
	if err != nil {
		return nil, fmt.Errorf("looking for cgroups: %w", err)
	}
	own, err := os.ReadFile(filepath.Join(proc, "cgroup"))
	if err != nil {
		return nil, fmt.Errorf("looking for the process's cgroups: %w", err)
	}
	var found []hierarchy
	seen := make(map[string]bool)
	for _, m := range mounts {
		controllers := ""
		if m.FSType == "cgroup" {
			controllers = m.VFSOptions
		} else if !hasControllers(m.Mountpoint) {
			continue
		}
		key, home, ok := homeOf(string(own), controllers)
		if !ok || seen[key] || m.Root != "/" {
			continue
		}
		seen[key] = true
		found = append(found, hierarchy{
			mount: m.Mountpoint, home: home,
			cpuset: slices.Contains(strings.Split(key, ","), "cpuset"), unified: m.FSType == "cgroup2",
		})
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("looking for cgroups: none are mounted below %s", "/sys/fs/cgroup")
	}
	return found, nil
}

func hasControllers(mount string) bool {
	data, err := os.ReadFile(filepath.Join(mount, "cgroup.controllers"))
	return err == nil && len(strings.TrimSpace(string(data))) > 0
}

// homeOf finds in /proc/<pid>/cgroup the line of the hierarchy whose mount has
// these options, which name its controllers; version 2 has none. key is what that
// line calls it. See cgroups(7).
func homeOf(own, options string) (key, home string, ok bool) {
	has := strings.Split(options, ",")
	for line := range strings.Lines(own) {
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(fields) != 3 {
			continue
		}
		key = fields[1]
		if options == "" && key == "" {
			return key, fields[2], true
		}
		if key != "" && !slices.ContainsFunc(strings.Split(key, ","), func(c string) bool { return !slices.Contains(has, c) }) {
			return key, fields[2], true
		}
	}
	return "", "", false
}
