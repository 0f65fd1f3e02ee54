package cri

import (
	"os"
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// testHugePages limits a container's huge pages, of which a guest has none unless it is
// told to.
func testHugePages(t *testing.T, n *node) {
	c := withHugePages(t, n).pod(t, nil).sleeper(t, func(c *runtimeapi.ContainerConfig) {
		c.Linux.Resources = &runtimeapi.LinuxContainerResources{HugepageLimits: []*runtimeapi.HugepageLimit{{PageSize: "2MB", Limit: 4 << 20}}}
	})
	if got, want := c.sh(t, "cat /sys/fs/cgroup/hugetlb.2MB.max; grep HugePages_Total: /proc/meminfo | xargs"), "4194304\nHugePages_Total: 0"; got != want {
		t.Errorf("of huge pages it sees %q, want %q", got, want)
	}
}

// withHugePages is a node that could limit huge pages itself, or else containerd passes
// no limit on: it looks for the controller where all are on a host with cgroups of
// version 2, and for a hierarchy of that name on others. Where the one has the controller
// and the other is how the host is set up, the node is another one, with the
// hierarchy of version 2 alone.
func withHugePages(t *testing.T, n *node) *node {
	t.Helper()
	if _, err := os.Stat("/sys/fs/cgroup/hugetlb"); err == nil {
		return n
	}
	if controllers, err := os.ReadFile("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		if !strings.Contains(string(controllers), "hugetlb") {
			t.Skipf("/sys/fs/cgroup has no controller of huge pages, only %s", controllers)
		}
		return n
	}
	switch hierarchy := hugePagesHierarchy(t); hierarchy {
	case "":
		t.Skip("the kernel has no controller of huge pages, or it is disabled")
	case "0": // that of version 2, or none
	default:
		t.Skipf("the controller of huge pages is in hierarchy %s of cgroups, which is not mounted at /sys/fs/cgroup/hugetlb, where containerd looks for it", hierarchy)
	}
	host := n.cell.NewHost(t)
	if err := host.Shell(t.Context(), n.cell, "umount -R /sys/fs/cgroup; mount -t cgroup2 none /sys/fs/cgroup; grep -q hugetlb /sys/fs/cgroup/cgroup.controllers"); err != nil {
		t.Fatalf("giving a node cgroups of version 2: %v", err)
	}
	options := n.options
	options.Host, options.Templates = host, n.cell.Templates()
	other := newNode(t, options)
	other.checkLeaks(t)
	return other
}

// hugePagesHierarchy is the number of the hierarchy of cgroups that has the controller
// of huge pages, empty if the kernel has none or does not use it.
func hugePagesHierarchy(t *testing.T) string {
	t.Helper()
	data, err := os.ReadFile("/proc/cgroups")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		// Its name, the hierarchy, how many cgroups there are, whether it is enabled.
		if fields := strings.Fields(line); len(fields) == 4 && fields[0] == "hugetlb" && fields[3] == "1" {
			return fields[1]
		}
	}
	return ""
}
