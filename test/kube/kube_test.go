package kube

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/hyperhq/hyper/test/harness"
	"github.com/hyperhq/hyper/test/image"
)

// TestKubernetes makes pods as their users do, on the newest containerd.
func TestKubernetes(t *testing.T) {
	const plugins = "/usr/lib/cni"
	if _, err := os.Stat(filepath.Join(plugins, "bridge")); err != nil {
		t.Skip("no CNI plugins: install containernetworking-plugins (`make setup`):", err)
	}
	o := harness.Prepare(t)
	if o.Runtime != harness.RuntimeHyper {
		t.Skip("only for the runtime of README.md's RuntimeClass")
	}
	if o.Parts.Kubernetes == "" {
		t.Skip("no Kubernetes in the cache: run `make kubernetes`")
	}
	o.Containerd, o.Kernel = o.Parts.Newest(), o.Parts.Kernels[0]
	o.CRI = &harness.CRI{Plugins: plugins, Sandboxer: harness.SandboxerPodsandbox}
	o.Host = harness.NewNetworkHost(t)
	cell, err := harness.NewCell(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cell.Close(); err != nil {
			t.Errorf("ending containerd: %v", err)
		}
	})
	cell.LogFailure(t)
	c := newCluster(t, cell, o)
	c.create(t, "/apis/node.k8s.io/v1/runtimeclasses", documentedClass(t))
	// The first pod makes what stays: the network's bridge.
	for _, test := range []struct {
		name string
		run  func(*testing.T, *cluster)
	}{
		{"to its end", testCompletes},
		{"use", testUse},
	} {
		if !t.Run(test.name, func(t *testing.T) { test.run(t, c) }) {
			return
		}
	}
}

// documentedClass is the RuntimeClass that README.md tells to make.
func documentedClass(t *testing.T) string {
	t.Helper()
	data, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	block := regexp.MustCompile("(?ms)^```yaml\n(apiVersion: node.k8s.io/v1\n.*?)^```").FindSubmatch(data)
	if block == nil {
		t.Fatal("README.md has no RuntimeClass")
	}
	return string(block[1])
}

const (
	podsPath    = "/api/v1/namespaces/default/pods"
	configsPath = "/api/v1/namespaces/default/configmaps"
	secretsPath = "/api/v1/namespaces/default/secrets"
)

// pod is what the test reads of a pod.
type pod struct {
	Metadata struct{ UID string }
	Spec     struct {
		RuntimeClassName string
		Overhead         map[string]string
	}
	Status status
}

// job is a pod that comes to its end by itself.
const job = `apiVersion: v1
kind: Pod
metadata: {name: job}
spec:
  runtimeClassName: hyper
  nodeName: ` + nodeName + `
  restartPolicy: Never
  tolerations: [{operator: Exists}]
  containers:
  - name: main
    image: ` + image.Name + `
    imagePullPolicy: Never
    command: [sh, -c, uname -r; exit 7]
`

// testCompletes has a pod run to its end, with a status.
func testCompletes(t *testing.T, c *cluster) {
	c.create(t, podsPath, job)
	var p pod
	c.eventually(t, func() error {
		if err := c.get(t, podsPath+"/job", &p); err != nil {
			return err
		}
		if p.Status.Phase != "Failed" {
			return fmt.Errorf("the pod is not at its end: %s: %s", p.Status.Phase, describe(p))
		}
		return nil
	})
	var state struct{ Terminated struct{ ExitCode int } }
	if err := json.Unmarshal(p.Status.ContainerStatuses[0].State, &state); err != nil || state.Terminated.ExitCode != 7 {
		t.Errorf("the container ended as %s, want status 7", p.Status.ContainerStatuses[0].State)
	}
	checkGuestKernel(t, c.text(t, http.MethodGet, podsPath+"/job/log"))
	c.remove(t, "job")
}

// web is a server whose page is in a ConfigMap.
const web = `apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  runtimeClassName: hyper
  nodeName: ` + nodeName + `
  terminationGracePeriodSeconds: 20
  tolerations: [{operator: Exists}]
  containers:
  - name: main
    image: ` + image.Name + `
    imagePullPolicy: Never
    command: [sh, -c, "uname -r; trap 'echo ending; exit 0' TERM; httpd -p 8080 -h /config; while :; do sleep 1 & wait; done"]
    resources: {limits: {memory: 64Mi, cpu: 500m}}
    readinessProbe: {httpGet: {path: /page, port: 8080}, periodSeconds: 1}
    livenessProbe: {exec: {command: [test, -e, /config/page]}, periodSeconds: 1}
    volumeMounts:
    - {name: config, mountPath: /config}
    - {name: secret, mountPath: /secret}
    - {name: memory, mountPath: /memory}
  - name: other
    image: ` + image.Name + `
    imagePullPolicy: Never
    command: [sh, -c, "trap 'exit 0' TERM; while :; do sleep 1 & wait; done"]
    resources: {limits: {memory: 32Mi, cpu: 500m}}
    volumeMounts: [{name: memory, mountPath: /memory}]
  volumes:
  - {name: config, configMap: {name: page}}
  - {name: secret, secret: {secretName: word}}
  - {name: memory, emptyDir: {medium: Memory}}
`

// testUse does with a pod what its users do, and then looks for what is left of it.
func testUse(t *testing.T, c *cluster) {
	c.create(t, configsPath, "{apiVersion: v1, kind: ConfigMap, metadata: {name: page}, data: {page: first}}")
	c.create(t, secretsPath, "{apiVersion: v1, kind: Secret, metadata: {name: word}, stringData: {word: hidden}}")
	before := c.cell.Snapshot()
	c.create(t, podsPath, web)
	var p pod
	c.eventually(t, func() error {
		p = pod{}
		if err := c.get(t, podsPath+"/web", &p); err != nil {
			return err
		}
		if err := p.Status.ready(); err != nil {
			return fmt.Errorf("%w: %s", err, describe(p))
		}
		return nil
	})
	t.Logf("ready: %s, overhead %v", describe(p), p.Spec.Overhead)
	c.checkPod(t, p)
	c.checkMachine(t, p)
	checkGuestKernel(t, c.text(t, http.MethodGet, podsPath+"/web/log?container=main"))
	checkGuestKernel(t, c.exec(t, "main", "uname -r"))
	c.checkVolumes(t)
	c.checkStatistics(t)
	c.remove(t, "web")
	if left := c.cell.Program("qemu-system"); len(left) != 0 {
		t.Errorf("the pod is gone, and machines are there: %v", left)
	}
	// Kubelet looks once a minute for sandboxes of pods that are gone.
	harness.Eventually(t, patience, func() error {
		if left := c.cell.Snapshot().Since(before); len(left) != 0 {
			return fmt.Errorf("left behind:\n\t%s", strings.Join(left, "\n\t"))
		}
		return nil
	})
}

// checkPod looks at what Kubernetes has made of the pod.
func (c *cluster) checkPod(t *testing.T, p pod) {
	t.Helper()
	if p.Status.Phase != "Running" {
		t.Errorf("the pod is %s", p.Status.Phase)
	}
	if p.Spec.RuntimeClassName != "hyper" || p.Spec.Overhead["memory"] != "300Mi" {
		t.Errorf("the pod's class is %q, its overhead %v", p.Spec.RuntimeClassName, p.Spec.Overhead)
	}
	if ip, err := netip.ParseAddr(p.Status.PodIP); err != nil || !netip.MustParsePrefix(harness.PodNetwork4).Contains(ip) {
		t.Errorf("the pod's address is %q", p.Status.PodIP)
	}
	conn, err := grpc.NewClient("unix://"+c.cell.Socket(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	r, err := runtimeapi.NewRuntimeServiceClient(conn).ListPodSandbox(t.Context(), &runtimeapi.ListPodSandboxRequest{
		Filter: &runtimeapi.PodSandboxFilter{LabelSelector: map[string]string{"io.kubernetes.pod.uid": p.Metadata.UID}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Items) != 1 || r.Items[0].RuntimeHandler != "hyper" {
		t.Errorf("kubelet has made the sandboxes %v, want one of the handler hyper", r.Items)
	}
}

// checkMachine looks for the pod's machine, which is to be in the pod's cgroup with the
// limit of the containers and the overhead.
func (c *cluster) checkMachine(t *testing.T, p pod) {
	t.Helper()
	machines := c.cell.Program("qemu-system")
	var own []string
	for _, m := range machines {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", m.PID))
		if err != nil {
			continue
		}
		if dir := memoryCgroup(string(data)); strings.Contains(dir, "pod"+p.Metadata.UID) {
			own = append(own, dir)
		}
	}
	if len(own) != 1 {
		t.Fatalf("of the machines %v these are in the pod's cgroup: %v", machines, own)
	}
	dir := own[0][:strings.Index(own[0], p.Metadata.UID)+len(p.Metadata.UID)]
	data, err := os.ReadFile(filepath.Join(dir, "memory.limit_in_bytes"))
	if err != nil {
		data, err = os.ReadFile(filepath.Join(dir, "memory.max"))
	}
	if err != nil {
		t.Fatal(err)
	}
	const want = (64 + 32 + 300) << 20
	if got := strings.TrimSpace(string(data)); got != strconv.Itoa(want) {
		t.Errorf("the limit of %s is %s, want %d", dir, got, want)
	}
}

// memoryCgroup is the directory of the memory's cgroup in what a process's cgroup file says.
func memoryCgroup(text string) string {
	for line := range strings.Lines(text) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		switch {
		case len(parts) < 3:
		case parts[1] == "memory":
			return filepath.Join("/sys/fs/cgroup/memory", parts[2])
		case parts[1] == "":
			if dir := filepath.Join("/sys/fs/cgroup", parts[2]); dirExists(dir) {
				return dir
			}
		}
	}
	return ""
}

func dirExists(dir string) bool {
	info, err := os.Stat(dir)
	return err == nil && info.IsDir()
}

// checkGuestKernel looks at a release of a kernel, which must not be the host's.
func checkGuestKernel(t *testing.T, release string) {
	t.Helper()
	var host unix.Utsname
	if err := unix.Uname(&host); err != nil {
		t.Fatal(err)
	}
	t.Logf("the pod's kernel is %s, the node's %s", strings.TrimSpace(release), unix.ByteSliceToString(host.Release[:]))
	if !regexp.MustCompile(`^[0-9]+\.[0-9]+\.`).MatchString(release) || strings.TrimSpace(release) == unix.ByteSliceToString(host.Release[:]) {
		t.Errorf("the pod's kernel is %q", release)
	}
}

// exec runs a command in a container of the pod web, by kubelet.
func (c *cluster) exec(t *testing.T, container, command string) string {
	t.Helper()
	return c.text(t, http.MethodPost, "/api/v1/nodes/"+nodeName+"/proxy/run/default/web/"+container+"?cmd="+url.QueryEscape(command))
}

// checkVolumes reads and changes what is in the pod's volumes.
func (c *cluster) checkVolumes(t *testing.T) {
	t.Helper()
	page := podsPath + "/web:8080/proxy/page"
	if got := c.text(t, http.MethodGet, page); got != "first" {
		t.Errorf("the server in the pod answers %q", got)
	}
	if got := c.exec(t, "main", "cat /secret/word"); got != "hidden" {
		t.Errorf("the secret is %q", got)
	}
	c.exec(t, "main", "cp /config/page /memory/copy")
	if got := c.exec(t, "other", "cat /memory/copy"); got != "first" {
		t.Errorf("the other container reads in the volume that they share %q", got)
	}
	c.change(t, configsPath+"/page", `{"data": {"page": "second"}}`)
	c.eventually(t, func() error {
		if got := c.text(t, http.MethodGet, page); got != "second" {
			return fmt.Errorf("after the ConfigMap has changed the server in the pod answers %q", got)
		}
		return nil
	})
}

// checkStatistics asks for what kubelet knows of the pod's use of memory.
func (c *cluster) checkStatistics(t *testing.T) {
	t.Helper()
	type memory struct{ WorkingSetBytes uint64 }
	c.eventually(t, func() error {
		var summary struct {
			Pods []struct {
				PodRef     struct{ Name string }
				Memory     memory
				Containers []struct {
					Name   string
					Memory memory
				}
			}
		}
		if err := c.get(t, "/api/v1/nodes/"+nodeName+"/proxy/stats/summary", &summary); err != nil {
			return err
		}
		for _, p := range summary.Pods {
			if p.PodRef.Name == "web" && p.Memory.WorkingSetBytes > 0 && len(p.Containers) == 2 &&
				p.Containers[0].Memory.WorkingSetBytes > 0 && p.Containers[1].Memory.WorkingSetBytes > 0 {
				return nil
			}
		}
		return fmt.Errorf("the statistics of the pod are lacking: %+v", summary)
	})
}

// remove deletes a pod and waits until it is gone.
func (c *cluster) remove(t *testing.T, name string) {
	t.Helper()
	begin := time.Now()
	c.delete(t, podsPath+"/"+name)
	c.eventually(t, func() error {
		err := c.get(t, podsPath+"/"+name, nil)
		if errors.Is(err, errNotFound) {
			return nil
		}
		return fmt.Errorf("the pod %s is still there (%v)", name, err)
	})
	t.Logf("the pod %s was gone after %v", name, time.Since(begin).Round(time.Millisecond))
}

// describe is a pod's state for a person.
func describe(p pod) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s", p.Status.Phase, p.Status.PodIP)
	for _, s := range p.Status.ContainerStatuses {
		fmt.Fprintf(&b, " %s=%s", s.Name, s.State)
	}
	return b.String()
}
