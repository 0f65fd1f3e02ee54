package cri

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/hyperhq/hyper/test/image"

	"github.com/hyperhq/hyper/test/harness"
)

// pod is a sandbox that a test has made.
type pod struct {
	node       *node
	id         string
	config     *runtimeapi.PodSandboxConfig
	containers int // made until now
}

// podConfig is an ordinary pod: namespaces of its own for network, IPC and host
// name, which its containers share, and processes private to each.
func (n *node) podConfig(t *testing.T) *runtimeapi.PodSandboxConfig {
	n.pods++
	name := fmt.Sprintf("pod%d", n.pods)
	return &runtimeapi.PodSandboxConfig{
		Metadata:     &runtimeapi.PodSandboxMetadata{Name: name, Namespace: "default", Uid: name + "-uid"},
		Hostname:     name,
		LogDirectory: t.TempDir(),
		Labels:       map[string]string{"test": name},
		Linux: &runtimeapi.LinuxPodSandboxConfig{
			CgroupParent: "/" + n.cell.Namespace,
			SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{
				NamespaceOptions: &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER},
			},
		},
	}
}

// tryPod asks for a pod, as it is or as edit changes it.
func (n *node) tryPod(t *testing.T, edit func(*runtimeapi.PodSandboxConfig)) (*pod, error) {
	t.Helper()
	config := n.podConfig(t)
	if edit != nil {
		edit(config)
	}
	ctx, cancel := context.WithTimeout(t.Context(), harness.Slowly(patience))
	defer cancel()
	r, err := n.runtime.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: config, RuntimeHandler: n.cell.Handler()})
	if err != nil {
		return nil, err
	}
	p := &pod{node: n, id: r.PodSandboxId, config: config}
	t.Cleanup(func() {
		if err := p.remove(); err != nil {
			t.Errorf("removing the pod %s: %v", config.Metadata.Name, err)
		}
		if t.Failed() {
			p.tellLogs(t)
		}
	})
	return p, nil
}

// tellLogs shows a person what the pod's containers have written.
func (p *pod) tellLogs(t *testing.T) {
	files, _ := filepath.Glob(filepath.Join(p.config.LogDirectory, "*.log"))
	for _, file := range files {
		p.tellLog(t, file)
	}
}

func (p *pod) tellLog(t *testing.T, file string) {
	const limit = 2 << 10
	data, err := os.ReadFile(file)
	t.Logf("%s of %s (%v):\n%s", filepath.Base(file), p.config.Metadata.Name, err, data[max(0, len(data)-limit):])
}

// pod makes a pod that is removed after the test.
func (n *node) pod(t *testing.T, edit func(*runtimeapi.PodSandboxConfig)) *pod {
	t.Helper()
	p, err := n.tryPod(t, edit)
	if err != nil {
		t.Fatalf("making a pod: %v", err)
	}
	return p
}

// remove stops and removes the pod with all that is in it. It may be removed
// already.
func (p *pod) remove() error {
	ctx, cancel := context.WithTimeout(context.Background(), harness.Slowly(patience))
	defer cancel()
	_, err := p.node.runtime.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: p.id})
	_, rerr := p.node.runtime.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: p.id})
	return errors.Join(unlessNotFound(err), unlessNotFound(rerr))
}

// unlessNotFound leaves out what containerd 1 says of a pod that is gone already.
func unlessNotFound(err error) error {
	if status.Code(err) == codes.NotFound {
		return nil
	}
	return err
}

// status is the pod's state as CRI tells it.
func (p *pod) status(t *testing.T) *runtimeapi.PodSandboxStatus {
	t.Helper()
	r, err := p.node.runtime.PodSandboxStatus(t.Context(), &runtimeapi.PodSandboxStatusRequest{PodSandboxId: p.id})
	if err != nil {
		t.Fatalf("asking for the pod's status: %v", err)
	}
	return r.Status
}

// addresses are the pod's IPv4 and IPv6 address.
func (p *pod) addresses(t *testing.T) (ip4, ip6 string) {
	t.Helper()
	network := p.status(t).Network
	for _, ip := range append([]string{network.GetIp()}, ips(network.GetAdditionalIps())...) {
		if strings.Contains(ip, ":") {
			ip6 = ip
		} else {
			ip4 = ip
		}
	}
	if ip4 == "" || ip6 == "" {
		t.Fatalf("the pod has not got two addresses: %v", network)
	}
	return ip4, ip6
}

func ips(list []*runtimeapi.PodIP) []string {
	var all []string
	for _, ip := range list {
		all = append(all, ip.Ip)
	}
	return all
}

// container is one of a pod.
type container struct {
	pod *pod
	id  string
	log string // the file of its output
}

// edit changes what an ordinary container is.
type edit = func(*runtimeapi.ContainerConfig)

// security is the security context of an edited container.
func security(c *runtimeapi.ContainerConfig) *runtimeapi.LinuxContainerSecurityContext {
	return c.Linux.SecurityContext
}

// tryCreate asks for a container that runs a command.
func (p *pod) tryCreate(t *testing.T, args []string, edits ...edit) (*container, error) {
	t.Helper()
	p.containers++
	name := fmt.Sprintf("c%d", p.containers)
	config := &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: name},
		Image:    &runtimeapi.ImageSpec{Image: image.Name},
		Command:  args,
		LogPath:  name + ".log",
		Linux: &runtimeapi.LinuxContainerConfig{SecurityContext: &runtimeapi.LinuxContainerSecurityContext{
			NamespaceOptions: p.config.Linux.SecurityContext.NamespaceOptions,
		}},
	}
	for _, e := range edits {
		e(config)
	}
	ctx, cancel := context.WithTimeout(t.Context(), harness.Slowly(patience))
	defer cancel()
	r, err := p.node.runtime.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{PodSandboxId: p.id, Config: config, SandboxConfig: p.config})
	if err != nil {
		return nil, err
	}
	c := &container{pod: p, id: r.ContainerId, log: filepath.Join(p.config.LogDirectory, config.LogPath)}
	if p == p.node.lent {
		t.Cleanup(func() { c.discard(t) })
	}
	return c, nil
}

// create makes a container that is not started.
func (p *pod) create(t *testing.T, args []string, edits ...edit) *container {
	t.Helper()
	c, err := p.tryCreate(t, args, edits...)
	if err != nil {
		t.Fatalf("creating a container of %q: %v", args, err)
	}
	return c
}

// run makes a container and starts it.
func (p *pod) run(t *testing.T, args []string, edits ...edit) *container {
	t.Helper()
	c := p.create(t, args, edits...)
	c.start(t)
	return c
}

// sleeper is a container for execs: it ends at SIGTERM.
func (p *pod) sleeper(t *testing.T, edits ...edit) *container {
	t.Helper()
	return p.run(t, []string{"probe", "pause"}, edits...)
}

// output runs a command to its end as a container and returns what it wrote; it
// must succeed.
func (p *pod) output(t *testing.T, args []string, edits ...edit) string {
	t.Helper()
	c := p.run(t, args, edits...)
	if s := c.exit(t); s.ExitCode != 0 {
		t.Fatalf("%q exited with %d: %s", args, s.ExitCode, c.output(t))
	}
	return c.output(t)
}

func (c *container) tryStart(t *testing.T) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), harness.Slowly(patience))
	defer cancel()
	_, err := c.pod.node.runtime.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: c.id})
	return err
}

func (c *container) start(t *testing.T) {
	t.Helper()
	if err := c.tryStart(t); err != nil {
		t.Fatalf("starting a container: %v", err)
	}
}

// stop ends the container, by force after the grace period.
func (c *container) stop(t *testing.T, grace time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), grace+harness.Slowly(patience))
	defer cancel()
	if _, err := c.pod.node.runtime.StopContainer(ctx, &runtimeapi.StopContainerRequest{ContainerId: c.id, Timeout: int64(grace / time.Second)}); err != nil {
		t.Fatalf("stopping a container: %v", err)
	}
}

func (c *container) remove(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), harness.Slowly(patience))
	defer cancel()
	if _, err := c.pod.node.runtime.RemoveContainer(ctx, &runtimeapi.RemoveContainerRequest{ContainerId: c.id}); err != nil {
		t.Fatalf("removing a container: %v", err)
	}
}

// discard removes the container, whatever it does, and be it removed already.
func (c *container) discard(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), harness.Slowly(patience))
	defer cancel()
	_, err := c.pod.node.runtime.RemoveContainer(ctx, &runtimeapi.RemoveContainerRequest{ContainerId: c.id})
	if err := unlessNotFound(err); err != nil {
		t.Errorf("removing a container: %v", err)
	}
	if t.Failed() {
		c.pod.tellLog(t, c.log)
	}
	os.Remove(c.log) // which is kubelet's to do; a container that was not started has none
}

func (c *container) status(t *testing.T) *runtimeapi.ContainerStatus {
	t.Helper()
	r, err := c.pod.node.runtime.ContainerStatus(t.Context(), &runtimeapi.ContainerStatusRequest{ContainerId: c.id})
	if err != nil {
		t.Fatalf("asking for a container's status: %v", err)
	}
	return r.Status
}

// exit waits until the container has ended and returns its status.
func (c *container) exit(t *testing.T) *runtimeapi.ContainerStatus {
	t.Helper()
	var s *runtimeapi.ContainerStatus
	harness.Eventually(t, patience, func() error {
		if s = c.status(t); s.State != runtimeapi.ContainerState_CONTAINER_EXITED {
			return fmt.Errorf("the container is still %v", s.State)
		}
		return nil
	})
	return s
}

// await waits until the container has written exactly a text.
func (c *container) await(t *testing.T, text string) {
	t.Helper()
	harness.Eventually(t, patience, func() error {
		if out := c.output(t); out != text {
			return fmt.Errorf("the container says %q, want %q", out, text)
		}
		return nil
	})
}

// tryExec runs a command in the container to its end.
func (c *container) tryExec(t *testing.T, limit time.Duration, args ...string) (*runtimeapi.ExecSyncResponse, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), harness.Slowly(patience))
	defer cancel()
	return c.pod.node.runtime.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: c.id, Cmd: args, Timeout: int64(limit / time.Second)})
}

// exec runs a command in the container that must succeed, and returns its output
// without the space around it.
func (c *container) exec(t *testing.T, args ...string) string {
	t.Helper()
	r, err := c.tryExec(t, harness.Slowly(patience/2), args...)
	if err != nil {
		t.Fatalf("running %q in a container: %v", args, err)
	}
	if r.ExitCode != 0 {
		t.Fatalf("%q exited with %d: %s%s", args, r.ExitCode, r.Stdout, r.Stderr)
	}
	return strings.TrimSpace(string(r.Stdout))
}

// sh is exec of a shell script.
func (c *container) sh(t *testing.T, script string) string {
	t.Helper()
	return c.exec(t, "sh", "-c", script)
}

// output is what the log has of both streams, without the space around it.
func (c *container) output(t *testing.T) string {
	t.Helper()
	data, err := os.ReadFile(c.log)
	if err != nil {
		t.Fatalf("reading a container's log: %v", err)
	}
	var out strings.Builder
	for _, e := range parseLog(t, data) {
		out.WriteString(e.text)
	}
	return strings.TrimSpace(out.String())
}
