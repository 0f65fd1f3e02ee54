package cri

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/hyperhq/hyper/test/harness"
)

// memoryResources are a limit in MiB, without swap.
func memoryResources(mib int64) *runtimeapi.LinuxContainerResources {
	return &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: mib << 20, MemorySwapLimitInBytes: mib << 20}
}

// machineMemory is what the machine of a container has, in MiB.
func machineMemory(t *testing.T, c *container) int {
	t.Helper()
	mib, err := strconv.Atoi(c.sh(t, "awk '/^MemTotal:/ {print int($2/1024)}' /proc/meminfo"))
	if err != nil {
		t.Fatal(err)
	}
	return mib
}

// testMemory has a machine begin in the size that kubelet says the pod has, resizes a
// container in place, and asks for more than the machine may have.
func testMemory(t *testing.T, n *node) {
	n.cell.DropInFor(t, "50-memory.toml", "[sandbox]\nmax_memory_mib = 1024\n")
	p := n.pod(t, func(c *runtimeapi.PodSandboxConfig) { c.Linux.Resources = memoryResources(400) })
	limited := func(mib int64) edit {
		return func(c *runtimeapi.ContainerConfig) { c.Linux.Resources = memoryResources(mib) }
	}
	c := p.sleeper(t, limited(300))
	if got := machineMemory(t, c); got < 400 || got > 400+96+32 {
		t.Errorf("a machine for a pod of 400 MiB began with %d", got)
	}
	update := func(mib int64) error {
		_, err := n.runtime.UpdateContainerResources(t.Context(), &runtimeapi.UpdateContainerResourcesRequest{ContainerId: c.id, Linux: memoryResources(mib)})
		return err
	}
	if err := update(700); err != nil {
		t.Fatal(err)
	}
	harness.Eventually(t, patience/2, func() error {
		if got := machineMemory(t, c); got < 700 {
			return fmt.Errorf("the machine has %d MiB for a limit of 700", got)
		}
		return nil
	})
	limit := func() string { return c.exec(t, "cat", "/sys/fs/cgroup/memory.max") }
	if got := limit(); got != fmt.Sprint(700<<20) {
		t.Errorf("the limit is %s", got)
	}
	// Of 1024 MiB the guest's kernel and agent need some: see docs/operations.md.
	refused := func(err error, what string) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), what) || !strings.Contains(err.Error(), "lower it to 913 MiB") {
			t.Errorf("the refusal of what does not fit does not say %q: %v", what, err)
		}
	}
	refused(update(2000), "2000 MiB")
	if got := limit(); got != fmt.Sprint(700<<20) {
		t.Errorf("the limit after the refusal is %s", got)
	}
	second, err := p.tryCreate(t, []string{"probe", "pause"}, limited(400))
	if err == nil { // containerd makes the task when it is started
		err = second.tryStart(t)
	}
	refused(err, "1100 MiB, in all")
	if err := update(400); err != nil {
		t.Fatal(err)
	}
	if got := p.sleeper(t, limited(400)).exec(t, "echo", "alive"); got != "alive" {
		t.Errorf("when there is room for it, a container says %q", got)
	}
}
