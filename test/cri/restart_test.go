package cri

import (
	"fmt"
	"testing"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// testContainerdRestarts ends containerd, gently and not, and starts it again
// while a pod lives.
func testContainerdRestarts(t *testing.T, n *node) {
	p := n.pod(t, nil)
	c := p.run(t, []string{"sh", "-c", "trap 'exit 8' TERM; i=0; while :; do echo $i; i=$((i+1)); sleep 0.2; done"})
	for _, signal := range []unix.Signal{unix.SIGTERM, unix.SIGKILL} {
		if err := n.cell.StopContainerd(signal); err != nil {
			t.Fatal(err)
		}
		if err := n.cell.StartContainerd(t.Context()); err != nil {
			t.Fatal(err)
		}
		n.awaitImages(t)
		if s := p.status(t); s.State != runtimeapi.PodSandboxState_SANDBOX_READY {
			t.Fatalf("after signal %d the pod is %v", signal, s.State)
		}
		if s := c.status(t); s.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
			t.Fatalf("after signal %d the container is %v", signal, s.State)
		}
		if got := c.exec(t, "echo", "alive"); got != "alive" {
			t.Errorf("after signal %d it says %q", signal, got)
		}
		before := c.output(t)
		eventually(t, patience, func() error {
			if c.output(t) == before {
				return fmt.Errorf("after signal %d nothing more is logged", signal)
			}
			return nil
		})
	}
	if got := p.output(t, []string{"echo", "new"}); got != "new" {
		t.Errorf("a new container says %q", got)
	}
	c.stop(t, patience/2)
	if s := c.status(t); s.ExitCode != 8 {
		t.Errorf("it exited with %d", s.ExitCode)
	}
}
