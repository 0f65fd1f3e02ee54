package cri

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/hyperhq/hyper/test/harness"
)

// testStats reads the use of processors, memory and files.
func testStats(t *testing.T, n *node) {
	p := n.shared(t)
	c := p.run(t, []string{"probe", "allocate", "40"}, func(c *runtimeapi.ContainerConfig) { c.Stdin = true })
	harness.Eventually(t, patience, func() error {
		r, err := n.runtime.ContainerStats(t.Context(), &runtimeapi.ContainerStatsRequest{ContainerId: c.id})
		if err != nil {
			return err
		}
		s := r.Stats
		if used := s.GetMemory().GetWorkingSetBytes().GetValue(); used < 40<<20 || used > 120<<20 {
			return fmt.Errorf("the container's memory is told as %d bytes: %v", used, s)
		}
		if s.GetCpu().GetUsageCoreNanoSeconds().GetValue() == 0 {
			return fmt.Errorf("the container has used no processor: %v", s)
		}
		return nil
	})
	list, err := n.runtime.ListContainerStats(t.Context(), &runtimeapi.ListContainerStatsRequest{Filter: &runtimeapi.ContainerStatsFilter{PodSandboxId: p.id}})
	if err != nil || len(list.Stats) != 1 || list.Stats[0].Attributes.Id != c.id {
		t.Errorf("the list of containers' statistics: %v, %v", list, err)
	}
}

// testPodStats reads what a pod uses as a whole, its network too.
func testPodStats(t *testing.T, n *node) {
	p := n.shared(t)
	c := p.sleeper(t)
	c.exec(t, "ping", "-c", "3", "-i", "0.2", harness.PodGateway4)
	harness.Eventually(t, patience, func() error {
		r, err := n.runtime.PodSandboxStats(t.Context(), &runtimeapi.PodSandboxStatsRequest{PodSandboxId: p.id})
		if err != nil {
			return err
		}
		s := r.Stats.GetLinux()
		if s.GetCpu().GetUsageCoreNanoSeconds().GetValue() == 0 || s.GetMemory().GetWorkingSetBytes().GetValue() == 0 {
			return fmt.Errorf("the pod has used nothing: %v", s)
		}
		if i := s.GetNetwork().GetDefaultInterface(); i.GetName() != "eth0" || i.GetRxBytes().GetValue() == 0 || i.GetTxBytes().GetValue() == 0 {
			return fmt.Errorf("the pod's network was not used: %v", s.GetNetwork())
		}
		if len(s.GetContainers()) != 1 {
			return fmt.Errorf("%d of its containers have statistics", len(s.GetContainers()))
		}
		return nil
	})
}

// testOverhead tells what a pod takes of the node from what its container uses: the
// difference is the machine.
func testOverhead(t *testing.T, n *node) {
	p := n.pod(t, nil)
	p.run(t, []string{"probe", "allocate", "40"}, func(c *runtimeapi.ContainerConfig) { c.Stdin = true })
	harness.Eventually(t, patience, func() error {
		r, err := n.runtime.PodSandboxStats(t.Context(), &runtimeapi.PodSandboxStatsRequest{PodSandboxId: p.id})
		if err != nil {
			return err
		}
		whole := r.Stats.GetLinux()
		if len(whole.GetContainers()) != 1 {
			return fmt.Errorf("%d of its containers have statistics", len(whole.GetContainers()))
		}
		container := whole.Containers[0]
		inside, outside := container.GetMemory().GetWorkingSetBytes().GetValue(), whole.GetMemory().GetWorkingSetBytes().GetValue()
		if inside < 40<<20 || outside < inside+20<<20 || outside > 600<<20 {
			return fmt.Errorf("the container uses %d bytes, the pod %d", inside, outside)
		}
		// The two do not compare: the guest counts the time too that it was kept from
		// running.
		if of, all := container.GetCpu().GetUsageCoreNanoSeconds().GetValue(), whole.GetCpu().GetUsageCoreNanoSeconds().GetValue(); of == 0 || all < 100e6 {
			return fmt.Errorf("the container has used processors for %d ns, the pod for %d", of, all)
		}
		return nil
	})
}

// limits are read inside, from either generation of cgroups.
const limitsScript = `cd /sys/fs/cgroup
if [ -f memory.max ]; then cat memory.max; cut -d ' ' -f 1 cpu.max
else cat memory/memory.limit_in_bytes cpu/cpu.cfs_quota_us; fi`

// testLimits makes a container with limits and changes them while it runs.
func testLimits(t *testing.T, n *node) {
	c := n.shared(t).sleeper(t, func(c *runtimeapi.ContainerConfig) {
		c.Linux.Resources = &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 64 << 20, CpuPeriod: 100000, CpuQuota: 50000}
	})
	if got := strings.Fields(c.sh(t, limitsScript)); fmt.Sprint(got) != fmt.Sprint([]int{64 << 20, 50000}) {
		t.Errorf("the limits are %v", got)
	}
	if _, err := n.runtime.UpdateContainerResources(t.Context(), &runtimeapi.UpdateContainerResourcesRequest{
		ContainerId: c.id,
		Linux:       &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 96 << 20, CpuPeriod: 100000, CpuQuota: 70000},
	}); err != nil {
		t.Fatal(err)
	}
	if got := strings.Fields(c.sh(t, limitsScript)); fmt.Sprint(got) != fmt.Sprint([]int{96 << 20, 70000}) {
		t.Errorf("the limits after the update are %v", got)
	}
	if l := c.status(t).GetResources().GetLinux(); l.GetMemoryLimitInBytes() != 96<<20 || l.GetCpuQuota() != 70000 {
		t.Errorf("the status tells the limits as %v", l)
	}
}

// testHugePages limits a container's huge pages, of which a guest has none unless it is
// told to.
func testHugePages(t *testing.T, n *node) {
	c := n.shared(t).sleeper(t, func(c *runtimeapi.ContainerConfig) {
		c.Linux.Resources = &runtimeapi.LinuxContainerResources{HugepageLimits: []*runtimeapi.HugepageLimit{{PageSize: "2MB", Limit: 4 << 20}}}
	})
	// containerd passes a limit on only if the node could enforce it.
	want := "max"
	controllers, _ := os.ReadFile("/sys/fs/cgroup/cgroup.controllers") // of version 2
	if _, err := os.Stat("/sys/fs/cgroup/hugetlb"); err == nil || slices.Contains(strings.Fields(string(controllers)), "hugetlb") {
		want = fmt.Sprint(4 << 20)
	}
	if got := c.sh(t, "cat /sys/fs/cgroup/hugetlb.2MB.max; grep HugePages_Total: /proc/meminfo | xargs"); got != want+"\nHugePages_Total: 0" {
		t.Errorf("of huge pages it sees %q, and its limit should be %s", got, want)
	}
}

// testOOM lets a container use more memory than it may.
func testOOM(t *testing.T, n *node) {
	p := n.shared(t)
	neighbour := p.sleeper(t)
	c := p.run(t, []string{"probe", "allocate", "200"}, func(c *runtimeapi.ContainerConfig) {
		c.Linux.Resources = &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 32 << 20, MemorySwapLimitInBytes: 32 << 20}
	})
	if s := c.exit(t); s.ExitCode != 137 || s.Reason != "OOMKilled" {
		t.Errorf("it exited with %d: %s", s.ExitCode, s.Reason)
	}
	if got := neighbour.exec(t, "echo", "alive"); got != "alive" {
		t.Errorf("its neighbour says %q", got)
	}
}
