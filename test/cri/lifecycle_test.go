package cri

import (
	"fmt"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/hyperhq/hyper/test/harness"
	"github.com/hyperhq/hyper/test/image"
)

// testPodStatus follows a pod through its life.
func testPodStatus(t *testing.T, n *node) {
	p := n.pod(t, nil)
	s := p.status(t)
	if s.State != runtimeapi.PodSandboxState_SANDBOX_READY {
		t.Errorf("the pod is %v", s.State)
	}
	if s.Metadata.Name != p.config.Metadata.Name || s.RuntimeHandler != n.cell.Handler() || s.Labels["test"] != p.config.Labels["test"] {
		t.Errorf("the pod is told as %v", s)
	}
	p.addresses(t)
	list, err := n.runtime.ListPodSandbox(t.Context(), &runtimeapi.ListPodSandboxRequest{Filter: &runtimeapi.PodSandboxFilter{Id: p.id}})
	if err != nil || len(list.Items) != 1 || list.Items[0].Id != p.id {
		t.Errorf("the list of pods: %v, %v", list, err)
	}
	for range 2 { // stopping what is stopped is no error
		if _, err := n.runtime.StopPodSandbox(t.Context(), &runtimeapi.StopPodSandboxRequest{PodSandboxId: p.id}); err != nil {
			t.Fatal(err)
		}
	}
	if s := p.status(t); s.State != runtimeapi.PodSandboxState_SANDBOX_NOTREADY {
		t.Errorf("the stopped pod is %v", s.State)
	}
	if err := p.remove(); err != nil {
		t.Fatal(err)
	}
	list, err = n.runtime.ListPodSandbox(t.Context(), &runtimeapi.ListPodSandboxRequest{Filter: &runtimeapi.PodSandboxFilter{Id: p.id}})
	if err != nil || len(list.Items) != 0 {
		t.Errorf("the list of pods after the removal: %v, %v", list, err)
	}
}

// testPodConfiguration tells every container the pod's name, which one that may do so
// changes for all, and its resolver's configuration, and sets some of the pod's own sysctls.
func testPodConfiguration(t *testing.T, n *node) {
	p := n.pod(t, func(c *runtimeapi.PodSandboxConfig) {
		c.Hostname = "a-name"
		c.Linux.Sysctls = map[string]string{"kernel.shm_rmid_forced": "1", "net.ipv4.ip_local_port_range": "20000\t30000"}
		c.DnsConfig = &runtimeapi.DNSConfig{Servers: []string{"192.0.2.53"}, Searches: []string{"test.example"}, Options: []string{"ndots:3"}}
	})
	first, second := p.sleeper(t, func(c *runtimeapi.ContainerConfig) {
		security(c).Capabilities = &runtimeapi.Capability{AddCapabilities: []string{"SYS_ADMIN"}}
	}), p.sleeper(t)
	for _, c := range []*container{first, second} {
		got := c.sh(t, "hostname; cat /etc/hostname /proc/sys/kernel/shm_rmid_forced /proc/sys/net/ipv4/ip_local_port_range /etc/resolv.conf")
		if want := "a-name\na-name\n1\n20000\t30000\nsearch test.example\nnameserver 192.0.2.53\noptions ndots:3"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	first.sh(t, "hostname changed")
	if got := second.exec(t, "hostname"); got != "changed" {
		t.Errorf("when one has changed it, the other sees the host name %q", got)
	}
}

// testContainerStatus follows a container through its life.
func testContainerStatus(t *testing.T, n *node) {
	p := n.shared(t)
	c := p.create(t, []string{"sh", "-c", "trap 'exit 7' TERM; echo ready; while :; do sleep 0.1; done"})
	if s := c.status(t); s.State != runtimeapi.ContainerState_CONTAINER_CREATED {
		t.Errorf("it was created and is %v", s.State)
	}
	c.start(t)
	if s := c.status(t); s.State != runtimeapi.ContainerState_CONTAINER_RUNNING || s.StartedAt == 0 || s.Image.Image != image.Name {
		t.Errorf("it was started: %v", s)
	}
	list, err := n.runtime.ListContainers(t.Context(), &runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{PodSandboxId: p.id}})
	if err != nil || len(list.Containers) != 1 || list.Containers[0].Id != c.id || list.Containers[0].State != runtimeapi.ContainerState_CONTAINER_RUNNING {
		t.Errorf("the list of containers: %v, %v", list, err)
	}
	c.await(t, "ready")
	c.stop(t, patience/2)
	if s := c.status(t); s.State != runtimeapi.ContainerState_CONTAINER_EXITED || s.ExitCode != 7 || s.FinishedAt < s.StartedAt {
		t.Errorf("it was stopped: %v", s)
	}
	c.remove(t)
	list, err = n.runtime.ListContainers(t.Context(), &runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{PodSandboxId: p.id}})
	if err != nil || len(list.Containers) != 0 {
		t.Errorf("the list of containers after the removal: %v, %v", list, err)
	}
}

// testGrace stops a container that does not want to.
func testGrace(t *testing.T, n *node) {
	c := n.shared(t).run(t, []string{"sh", "-c", "trap '' TERM; echo ready; while :; do sleep 1; done"})
	c.await(t, "ready")
	begin := time.Now()
	c.stop(t, 2*time.Second)
	if took := time.Since(begin); took < 2*time.Second {
		t.Errorf("it was stopped after %v, before its grace period ended", took)
	}
	if s := c.status(t); s.ExitCode != 137 {
		t.Errorf("it exited with %d", s.ExitCode)
	}
}

// testStartFails asks for a program that is not there.
func testStartFails(t *testing.T, n *node) {
	p := n.shared(t)
	neighbour := p.sleeper(t)
	c, err := p.tryCreate(t, []string{"no-such-command"})
	if err == nil {
		err = c.tryStart(t)
	}
	if err == nil {
		t.Error("a program that does not exist was started")
	}
	if got := neighbour.exec(t, "echo", "alive"); got != "alive" {
		t.Errorf("its neighbour says %q", got)
	}
}

// testRestart replaces a container while its neighbour runs.
func testRestart(t *testing.T, n *node) {
	p := n.shared(t)
	neighbour := p.sleeper(t)
	for i := range 3 {
		c := p.run(t, []string{"sh", "-c", fmt.Sprintf("exit %d", i)}, func(c *runtimeapi.ContainerConfig) {
			c.Metadata = &runtimeapi.ContainerMetadata{Name: "restarted", Attempt: uint32(i)}
		})
		if s := c.exit(t); s.ExitCode != int32(i) {
			t.Errorf("attempt %d exited with %d", i, s.ExitCode)
		}
		c.remove(t)
		if s := neighbour.status(t); s.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
			t.Fatalf("after attempt %d its neighbour is %v", i, s.State)
		}
	}
	if s := p.status(t); s.State != runtimeapi.PodSandboxState_SANDBOX_READY {
		t.Errorf("the pod is %v", s.State)
	}
	if got := neighbour.exec(t, "echo", "alive"); got != "alive" {
		t.Errorf("its neighbour says %q", got)
	}
}

// testTwenty has twenty containers in one pod.
func testTwenty(t *testing.T, n *node) {
	p := n.pod(t, nil)
	var all []*container
	for range 20 {
		all = append(all, p.sleeper(t))
	}
	for i, c := range all {
		if s := c.status(t); s.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
			t.Errorf("container %d is %v", i, s.State)
		}
	}
	for _, c := range []*container{all[0], all[len(all)-1]} {
		if got := c.exec(t, "echo", c.id); got != c.id {
			t.Errorf("container %s says %q", c.id, got)
		}
	}
	if n.cell.Handler() == "hyper" {
		if vms := n.cell.Program("qemu-system"); len(vms) != 1 {
			t.Errorf("they are in %d machines: %v", len(vms), vms)
		}
	}
}

// testStopPod ends a pod with all that is in it.
func testStopPod(t *testing.T, n *node) {
	p := n.pod(t, nil)
	a, b := p.sleeper(t), p.run(t, []string{"sh", "-c", "trap '' TERM; while :; do sleep 1; done"})
	if _, err := n.runtime.StopPodSandbox(t.Context(), &runtimeapi.StopPodSandboxRequest{PodSandboxId: p.id}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []*container{a, b} {
		if s := c.status(t); s.State != runtimeapi.ContainerState_CONTAINER_EXITED {
			t.Errorf("a container of the stopped pod is %v", s.State)
		}
	}
	if _, err := p.tryCreate(t, []string{"true"}); err == nil {
		t.Error("a container was made in a stopped pod")
	}
}

// testPodProcess ends the process that stands for the pod: the pod is not ready any more,
// which is told, and its containers live on until it is stopped.
func testPodProcess(t *testing.T, n *node) {
	if n.options.CRI.Sandboxer == harness.SandboxerShim {
		t.Skip("a pod that the shim makes has no process of its own")
	}
	p := n.pod(t, nil)
	c := p.sleeper(t)
	n.ctr(t, "task", "kill", "--signal", "KILL", p.id)
	harness.Eventually(t, patience, func() error {
		if s := p.status(t); s.State != runtimeapi.PodSandboxState_SANDBOX_NOTREADY {
			return fmt.Errorf("the pod is %v", s.State)
		}
		return nil
	})
	if got := c.exec(t, "echo", "alive"); got != "alive" {
		t.Errorf("its container says %q", got)
	}
	if err := p.remove(); err != nil {
		t.Fatal(err)
	}
}

// testNoPauseImage makes a pod on a node that has no pause image.
func testNoPauseImage(t *testing.T, n *node) {
	if n.options.CRI.Sandboxer != harness.SandboxerShim {
		t.Skip("a pod that the shim does not make is a container of the pause image")
	}
	const away = "example.com/away:1"
	n.ctr(t, "images", "tag", image.Pause, away)
	n.ctr(t, "images", "rm", image.Pause)
	defer func() {
		n.ctr(t, "images", "tag", away, image.Pause)
		n.ctr(t, "images", "label", image.Pause, "io.cri-containerd.image=managed")
		n.ctr(t, "images", "rm", away)
		n.awaitImages(t)
	}()
	if got := n.pod(t, nil).sleeper(t).exec(t, "echo", "alive"); got != "alive" {
		t.Errorf("its container says %q", got)
	}
}

// testImages lists what was imported.
func testImages(t *testing.T, n *node) {
	r, err := n.images.ListImages(t.Context(), &runtimeapi.ListImagesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	pinned := map[string]bool{}
	for _, img := range r.Images {
		for _, tag := range img.RepoTags {
			pinned[tag] = img.Pinned
		}
	}
	if p, ok := pinned[image.Name]; !ok || p {
		t.Errorf("the image is listed: %v, pinned: %v", ok, p)
	}
	if _, ok := pinned[image.Pause]; !ok {
		t.Error("the pause image is not listed")
	}
}
