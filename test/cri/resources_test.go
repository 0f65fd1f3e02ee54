package cri

import (
	"fmt"
	"os"
	"slices"
	"strconv"
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
	checkCgroup(t, n, p)
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

// checkCgroup looks whether all that is on the node of the only pod is in its cgroup, in
// each hierarchy that has one.
func checkCgroup(t *testing.T, n *node, p *pod) {
	t.Helper()
	for _, program := range []string{"qemu-system", "virtiofsd", "containerd-shim-hyper"} {
		found := n.cell.Program(program)
		if len(found) == 0 {
			t.Errorf("there is no %s", program)
		}
		for _, process := range found {
			groups, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", process.PID))
			if err != nil {
				t.Fatal(err)
			}
			for _, controllers := range []string{"memory", "cpu", "pids", ""} {
				if group, ok := groupOf(string(groups), controllers); ok && !strings.HasPrefix(group, p.config.Linux.CgroupParent+"/") {
					t.Errorf("%s is in cgroup %s of %q, and not in the pod's", process, group, controllers)
				}
			}
		}
	}
}

// groupOf is the cgroup that a process has in the hierarchy of a controller of version 1,
// or in that of version 2, whose name is empty: that is not looked at where it has no
// controllers.
func groupOf(groups, controller string) (group string, ok bool) {
	if data, err := os.ReadFile("/sys/fs/cgroup/cgroup.controllers"); controller == "" && (err != nil || len(data) == 0) {
		return "", false
	}
	for line := range strings.Lines(groups) {
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(fields) == 3 && slices.Contains(strings.Split(fields[1], ","), controller) {
			return fields[2], true
		}
	}
	return "", false
}

// testMetrics reads what containerd makes of statistics for Prometheus, of all pods.
func testMetrics(t *testing.T, n *node) {
	p := n.shared(t)
	c := p.sleeper(t)
	c.exec(t, "ping", "-c", "1", harness.PodGateway4)
	r, err := n.runtime.ListPodSandboxMetrics(t.Context(), &runtimeapi.ListPodSandboxMetricsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	positive := make(map[string]bool)
	note := func(list []*runtimeapi.Metric) {
		for _, m := range list {
			positive[m.Name] = positive[m.Name] || m.GetValue().GetValue() > 0
		}
	}
	for _, pod := range r.PodMetrics {
		if pod.PodSandboxId != p.id {
			continue
		}
		note(pod.Metrics)
		for _, container := range pod.ContainerMetrics {
			if container.ContainerId == c.id {
				note(container.Metrics)
			}
		}
	}
	for _, name := range []string{"container_memory_working_set_bytes", "container_processes", "container_start_time_seconds", "container_network_receive_bytes_total"} {
		if !positive[name] {
			t.Errorf("%s is not there, or nothing: %v", name, positive)
		}
	}
}

// limitsScript reads limits inside, from either generation of cgroups: of memory, of
// processor time, of swap beside the memory, and the weight.
const limitsScript = `cd /sys/fs/cgroup
if [ -f memory.max ]; then cat memory.max; cut -d ' ' -f 1 cpu.max; cat memory.swap.max cpu.weight
else cd memory; m=$(cat memory.limit_in_bytes); echo $m; cat ../cpu/cpu.cfs_quota_us; echo $(($(cat memory.memsw.limit_in_bytes) - m)); cat ../cpu/cpu.shares; fi`

// limitsOf are a container's, but for the weight, which the second result is.
func limitsOf(t *testing.T, c *container) (limits string, weight int) {
	t.Helper()
	lines := strings.Fields(c.sh(t, limitsScript))
	if len(lines) != 4 {
		t.Fatalf("the limits are %q", lines)
	}
	weight, err := strconv.Atoi(lines[3])
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(lines[:3], " "), weight
}

// testLimits makes a container with limits and changes them while it runs.
func testLimits(t *testing.T, n *node) {
	p := n.shared(t)
	_, ordinary := limitsOf(t, p.sleeper(t))
	c := p.sleeper(t, func(c *runtimeapi.ContainerConfig) {
		c.Linux.Resources = &runtimeapi.LinuxContainerResources{
			MemoryLimitInBytes: 64 << 20, MemorySwapLimitInBytes: 80 << 20, CpuPeriod: 100000, CpuQuota: 50000, CpuShares: 512,
		}
	})
	limits, weight := limitsOf(t, c)
	if want := fmt.Sprintf("%d 50000 %d", 64<<20, 16<<20); limits != want || weight >= ordinary {
		t.Errorf("the limits are %s, want %s, and its weight %d, where %d is ordinary", limits, want, weight, ordinary)
	}
	if _, err := n.runtime.UpdateContainerResources(t.Context(), &runtimeapi.UpdateContainerResourcesRequest{
		ContainerId: c.id,
		Linux: &runtimeapi.LinuxContainerResources{
			MemoryLimitInBytes: 96 << 20, MemorySwapLimitInBytes: 104 << 20, CpuPeriod: 100000, CpuQuota: 70000, CpuShares: 4096,
		},
	}); err != nil {
		t.Fatal(err)
	}
	limits, weight = limitsOf(t, c)
	if want := fmt.Sprintf("%d 70000 %d", 96<<20, 8<<20); limits != want || weight <= ordinary {
		t.Errorf("the limits after the update are %s, want %s, and its weight %d, where %d is ordinary", limits, want, weight, ordinary)
	}
	if l := c.status(t).GetResources().GetLinux(); l.GetMemoryLimitInBytes() != 96<<20 || l.GetCpuQuota() != 70000 {
		t.Errorf("the status tells the limits as %v", l)
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
