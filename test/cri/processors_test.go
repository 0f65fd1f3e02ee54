package cri

import (
	"fmt"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// cpuResources are limits in hundredths of a processor.
func cpuResources(hundredths int64) *runtimeapi.LinuxContainerResources {
	return &runtimeapi.LinuxContainerResources{CpuPeriod: 100000, CpuQuota: hundredths * 1000}
}

// testProcessors resizes containers of a pod in place, up and down, while they are busy,
// as kubelet does. What it is told of the pod as a whole holds at its start.
func testProcessors(t *testing.T, n *node) {
	n.cell.DropInFor(t, "50-processors.toml", "[sandbox]\nmax_vcpus = 4\n")
	p := n.pod(t, func(c *runtimeapi.PodSandboxConfig) {
		c.Linux.Resources = cpuResources(300)
	})
	limited := func(hundredths int64) edit {
		return func(c *runtimeapi.ContainerConfig) { c.Linux.Resources = cpuResources(hundredths) }
	}
	a := p.sleeper(t, limited(200))
	check := func(when string, want int, all ...*container) {
		t.Helper()
		for _, c := range all {
			if got := c.exec(t, "nproc"); got != fmt.Sprint(want) {
				t.Errorf("%s: a container has %s processors, want %d", when, got, want)
			}
		}
	}
	check("as the pod began", 3, a)
	b := p.sleeper(t, limited(50))
	// They take the container's quota from what is asked of it below, so they are not more.
	b.sh(t, "for i in 1 2; do sh -c 'while :; do :; done' >/dev/null 2>&1 & done")
	update := func(c *container, r *runtimeapi.LinuxContainerResources) {
		t.Helper()
		if _, err := n.runtime.UpdateContainerResources(t.Context(), &runtimeapi.UpdateContainerResourcesRequest{ContainerId: c.id, Linux: r}); err != nil {
			t.Fatal(err)
		}
	}
	for _, step := range []struct {
		hundredths int64
		want       int
	}{{320, 4}, {40, 1}, {130, 2}} {
		update(a, cpuResources(step.hundredths))
		check(fmt.Sprintf("with limits of %d and 50 hundredths", step.hundredths), step.want, a, b)
	}
	// As of kubelet's static policy: the host's numbers.
	set := cpuResources(130)
	set.CpusetCpus = "61-62"
	update(a, set)
	check("with a set of the host's processors", 2, a, b)
	a.stop(t, 0)
	a.remove(t)
	check("when the other is removed", 1, b)
}
