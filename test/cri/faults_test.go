package cri

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/hyperhq/hyper/test/harness"
)

// testKilled kills the processes of a pod with containers: all of them are
// reported as ended, the pod is not ready, and its removal leaves nothing.
func testKilled(t *testing.T, n *node) {
	const shim = "containerd-shim-hyper"
	for _, test := range []struct {
		program    string
		containers int
	}{{"qemu-system", 5}, {"virtiofsd", 2}, {shim, 2}} {
		program := test.program
		t.Run(program, func(t *testing.T) {
			n.checkLeaks(t)
			p := n.pod(t, nil)
			var all []*container
			for range test.containers {
				all = append(all, p.sleeper(t))
			}
			found := n.cell.Program(program)
			if len(found) == 0 {
				t.Fatalf("there is no %s", program)
			}
			for _, process := range found {
				// The end of the first may be that of the others.
				if err := unix.Kill(process.PID, unix.SIGKILL); err != nil && err != unix.ESRCH {
					t.Fatalf("killing %s: %v", process, err)
				}
			}
			for i, c := range all {
				// CRI has lost whom it asked, and says 255, if the shim is gone.
				if s := c.exit(t); s.ExitCode != 137 && (s.ExitCode != 255 || program != shim) {
					t.Errorf("container %d exited with %d", i, s.ExitCode)
				}
			}
			harness.Eventually(t, patience, func() error {
				if s := p.status(t); s.State != runtimeapi.PodSandboxState_SANDBOX_NOTREADY {
					return fmt.Errorf("the pod is %v", s.State)
				}
				return nil
			})
			if err := p.remove(); err != nil {
				t.Errorf("removing it: %v", err)
			}
		})
	}
}

// testFlood has a container that writes without pause, and a neighbour of it that
// answers none the less.
func testFlood(t *testing.T, n *node) {
	p := n.shared(t)
	// A megabyte at a time: the log is kept on the disk.
	flood := p.run(t, []string{"sh", "-c", "while probe write 1000000 0; do sleep 0.05; done"})
	neighbour := p.sleeper(t)
	for i := range 5 {
		if got := neighbour.exec(t, "echo", fmt.Sprint(i)); got != fmt.Sprint(i) {
			t.Errorf("it says %q", got)
		}
	}
	if s := flood.status(t); s.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
		t.Errorf("meanwhile the container that writes is %v", s.State)
	}
	flood.stop(t, 0)
}

// testNetworkTeardownFails has CNI fail when the pod is stopped: that is told, and
// the next attempt leaves nothing.
func testNetworkTeardownFails(t *testing.T, n *node) {
	p := n.pod(t, nil)
	c := p.sleeper(t)
	plugin := filepath.Join(n.cell.NetworkPlugins(), "bridge")
	repair := func() error { return os.Rename(plugin+".works", plugin) }
	if err := os.Rename(plugin, plugin+".works"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { repair() }) // if the test does not get to it
	broken := `#!/bin/sh
echo '{"cniVersion": "1.0.0", "code": 100, "msg": "broken by a test"}'
exit 1
`
	if err := os.WriteFile(plugin, []byte(broken), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := n.runtime.StopPodSandbox(t.Context(), &runtimeapi.StopPodSandboxRequest{PodSandboxId: p.id}); err == nil {
		t.Error("the pod was stopped though its network was not removed")
	}
	if s := c.status(t); s.State != runtimeapi.ContainerState_CONTAINER_EXITED {
		t.Errorf("its container is %v", s.State)
	}
	if err := repair(); err != nil {
		t.Fatal(err)
	}
	if err := p.remove(); err != nil {
		t.Errorf("removing it when CNI works again: %v", err)
	}
}

// testMany makes and removes pods, one after the other. Nothing of them stays, as for
// every test, and no memory.
func testMany(t *testing.T, n *node) {
	if os.Getenv("HYPER_TEST_LONG") == "" {
		t.Skip("takes minutes: `make test-long`")
	}
	const pods = 50
	var before uint64
	for i := range pods {
		p := n.pod(t, nil)
		if got := p.sleeper(t).exec(t, "echo", fmt.Sprint(i)); got != fmt.Sprint(i) {
			t.Errorf("pod %d says %q", i, got)
		}
		if err := p.remove(); err != nil {
			t.Fatalf("removing pod %d: %v", i, err)
		}
		if i == 0 { // the first has made what others find
			before = n.podsMemory(t)
		}
	}
	// The kernel keeps some 10 KiB of its own for each pod until it wants them. Whatever
	// stays of a process or of its files in memory is more.
	const most = pods * 80 << 10
	harness.Eventually(t, patience, func() error {
		after := n.podsMemory(t)
		t.Logf("memory of pods that are gone: %d KiB after the first, %d KiB after %d", before>>10, after>>10, pods)
		if after > before+most {
			return fmt.Errorf("%d KiB of memory of %d pods have stayed", (after-before)>>10, pods)
		}
		return nil
	})
}

func (n *node) podsMemory(t *testing.T) uint64 {
	t.Helper()
	bytes, err := n.cell.PodsMemory()
	if err != nil {
		t.Fatal(err)
	}
	return bytes
}

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
		harness.Eventually(t, patience, func() error {
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
