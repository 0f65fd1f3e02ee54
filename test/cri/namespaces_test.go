package cri

import (
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// podPID gives a pod's containers one PID namespace.
func podPID(c *runtimeapi.PodSandboxConfig) {
	c.Linux.SecurityContext.NamespaceOptions.Pid = runtimeapi.NamespaceMode_POD
}

// testPrivatePID has containers that do not see each other's processes.
func testPrivatePID(t *testing.T, n *node) {
	p := n.shared(t)
	p.run(t, []string{"sleep", "4711"})
	c := p.sleeper(t)
	if got := c.exec(t, "readlink", "/proc/1/exe"); got != "/bin/probe" {
		t.Errorf("its first process is %s", got)
	}
	if got := c.sh(t, "ps -o args | grep -c '[s]leep 4711' || true"); got != "0" {
		t.Error("it sees its neighbour's process")
	}
}

// testSharedPID has containers that do (shareProcessNamespace), below the pod's
// own first process, which outlives them.
func testSharedPID(t *testing.T, n *node) {
	p := n.pod(t, podPID)
	first := p.run(t, []string{"sleep", "4711"})
	c := p.sleeper(t)
	if got := c.sh(t, "ps -o args | grep -c '[s]leep 4711' || true"); got != "1" {
		t.Errorf("it sees %s of its neighbour's processes", got)
	}
	// The pod's own has the path that the pause image names it by.
	if got := c.sh(t, "tr '\\0' ' ' < /proc/1/cmdline"); got == "probe pause" || strings.Contains(got, "sleep") {
		t.Errorf("the first process is a container's: %q", got)
	}
	c.sh(t, "kill -9 $(pidof sleep)")
	if s := first.exit(t); s.ExitCode != 137 {
		t.Errorf("its neighbour exited with %d", s.ExitCode)
	}
	// An orphan falls to the pod's first process, and is reaped.
	c.sh(t, "(sleep 0.1 &)")
	c.sh(t, "for i in $(seq 50); do grep -q '^State:.Z' /proc/[0-9]*/status || exit 0; sleep 0.1; done; exit 1")
	if got := c.exec(t, "echo", "alive"); got != "alive" {
		t.Errorf("after its neighbour's end it says %q", got)
	}
}

// testSharedIPC has one /dev/shm and the same System V segments in all containers
// of a pod, and others in another.
func testSharedIPC(t *testing.T, n *node) {
	p := n.shared(t)
	a, b := p.sleeper(t), p.sleeper(t)
	a.sh(t, "echo from a > /dev/shm/file; probe shm 77 also from a")
	if got := b.sh(t, "cat /dev/shm/file; probe shm 77"); got != "from a\nalso from a" {
		t.Errorf("its neighbour sees %q", got)
	}
	if got := n.pod(t, nil).sleeper(t).sh(t, "ls /dev/shm; probe shm 77 2>&1 || true"); !strings.Contains(got, "no such file") {
		t.Errorf("another pod sees %q", got)
	}
}

// testHostNamespaces asks for the host's namespaces, which a machine of its own
// cannot have: that is refused in words that say so.
func testHostNamespaces(t *testing.T, n *node) {
	for name, set := range map[string]func(*runtimeapi.NamespaceOption){
		"PID": func(o *runtimeapi.NamespaceOption) { o.Pid = runtimeapi.NamespaceMode_NODE },
		"IPC": func(o *runtimeapi.NamespaceOption) { o.Ipc = runtimeapi.NamespaceMode_NODE },
	} {
		p, err := n.tryPod(t, func(c *runtimeapi.PodSandboxConfig) { set(c.Linux.SecurityContext.NamespaceOptions) })
		if err == nil {
			// The pause container need not tell: a container of it must.
			var c *container
			if c, err = p.tryCreate(t, []string{"true"}); err == nil {
				err = c.tryStart(t)
			}
		}
		if err == nil {
			t.Errorf("a pod got the host's %s namespace, or was told so", name)
		} else if !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), "host") {
			t.Errorf("the refusal of the host's %s namespace does not say so: %v", name, err)
		}
	}
}
