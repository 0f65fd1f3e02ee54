package kube

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hyperhq/hyper/test/harness"
)

// patience is how long anything of a cluster or a pod may take on a busy machine without
// hardware virtualization.
const patience = 3 * time.Minute

const (
	nodeName    = "node"
	nodeAddress = "192.0.2.10" // one for documentation
	token       = "of-the-test"
)

// cluster is a Kubernetes of one node.
type cluster struct {
	api
	cell *harness.Cell
	dir  string // of the programs' files
	bin  string // of the programs
	// reaper is this process's.
	reaper *harness.Reaper
}

// newCluster starts the programs on a containerd. They end with the test.
func newCluster(t *testing.T, cell *harness.Cell, o harness.CellOptions) *cluster {
	t.Helper()
	c := &cluster{
		api: newAPI(o.Host.NetNS, "https://"+nodeAddress+":6443"), cell: cell,
		dir: filepath.Join(cell.Dir, "kubernetes"), bin: o.Parts.Kubernetes, reaper: o.Reaper,
	}
	if err := os.Mkdir(c.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	// Kubelet takes no loopback's address for its node's.
	o.Host.NetNS.Address(t, "lo", nodeAddress+"/32")
	c.startControl(t)
	c.startKubelet(t)
	return c
}

// startControl starts what a control plane needs to hold pods, and waits for it.
func (c *cluster) startControl(t *testing.T) {
	t.Helper()
	c.start(t, "etcd", "--data-dir="+c.file("etcd"), "--unsafe-no-fsync")
	key := c.file("accounts.key")
	writeKey(t, key)
	c.write(t, "tokens.csv", token+`,tester,1,"system:masters"`+"\n")
	c.start(t, "kube-apiserver",
		"--etcd-servers=http://127.0.0.1:2379",
		"--advertise-address="+nodeAddress, "--bind-address="+nodeAddress, "--secure-port=6443",
		"--cert-dir="+c.file("certificates"),
		"--token-auth-file="+c.file("tokens.csv"), "--authorization-mode=AlwaysAllow",
		"--service-cluster-ip-range=10.96.0.0/16",
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file="+key, "--service-account-signing-key-file="+key,
		// Pods have no service account: a controller would make it.
		"--disable-admission-plugins=ServiceAccount",
		"--endpoint-reconciler-type=none",
		"--kubelet-preferred-address-types=InternalIP",
	)
	c.eventually(t, func() error { return c.get(t, "/readyz", nil) })
	c.eventually(t, func() error { return c.get(t, "/api/v1/namespaces/default", nil) })
}

// startKubelet starts a kubelet of which the pods' cgroups are below one that bears the
// cell's name, and waits until it can take pods.
func (c *cluster) startKubelet(t *testing.T) {
	t.Helper()
	makeCgroups(t, c.cell.Namespace)
	c.write(t, "kubeconfig", fmt.Sprintf(kubeconfig, c.base, token))
	c.write(t, "resolv.conf", "nameserver "+nodeAddress+"\n")
	c.start(t, "kubelet",
		"--kubeconfig="+c.file("kubeconfig"),
		"--container-runtime-endpoint=unix://"+c.cell.Socket(),
		"--hostname-override="+nodeName, "--node-ip="+nodeAddress,
		"--root-dir="+c.file("kubelet"), "--cert-dir="+c.file("kubelet-certificates"), "--volume-plugin-dir="+c.file("volume-plugins"),
		"--resolv-conf="+c.file("resolv.conf"),
		"--cgroup-driver=cgroupfs", "--cgroup-root=/"+c.cell.Namespace,
		"--fail-swap-on=false",
		// A disk that is rather full is no matter of this test.
		"--eviction-hard=memory.available<1Mi", "--image-gc-high-threshold=100",
		"--oom-score-adj=0", // a test run may not be allowed to lower it
		"--read-only-port=0",
		"--sync-frequency=2s", "--node-status-update-frequency=2s",
		"--v=2",
	)
	c.eventually(t, func() error {
		var node struct{ Status status }
		if err := c.get(t, "/api/v1/nodes/"+nodeName, &node); err != nil {
			return err
		}
		return node.Status.ready()
	})
}

const kubeconfig = `apiVersion: v1
kind: Config
clusters: [{name: test, cluster: {server: %q, insecure-skip-tls-verify: true}}]
users: [{name: test, user: {token: %q}}]
contexts: [{name: test, context: {cluster: test, user: test}}]
current-context: test
`

func (c *cluster) file(name string) string { return filepath.Join(c.dir, name) }

func (c *cluster) write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(c.file(name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// start starts one of the programs where containerd runs. It ends with the test, which
// shows the end of its log if it failed.
func (c *cluster) start(t *testing.T, name string, args ...string) {
	t.Helper()
	log, err := os.Create(c.file(name + ".log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := c.cell.Command(context.Background(), filepath.Join(c.bin, name), args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	if err := c.reaper.Start(cmd); err != nil {
		t.Fatalf("starting %s: %v", name, err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("%s's log ends:\n%s", name, tail(log.Name()))
		}
		if err := c.end(cmd); err != nil {
			t.Errorf("ending %s: %v", name, err)
		}
	})
}

// end ends a program and waits for it. One that must be killed is an error.
func (c *cluster) end(cmd *exec.Cmd) error {
	if err := cmd.Process.Signal(unix.SIGTERM); err != nil {
		return err
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.reaper.Wait(cmd)
	}()
	select {
	case <-done:
		return nil
	case <-time.After(harness.Slowly(harness.TeardownLimit)):
		cmd.Process.Kill()
		<-done
		return fmt.Errorf("it did not end within %v", harness.Slowly(harness.TeardownLimit))
	}
}

// tail is the end of a file, for a person.
func tail(name string) string {
	const limit = 12 << 10
	data, err := os.ReadFile(name)
	if err != nil {
		return err.Error()
	}
	return string(data[max(0, len(data)-limit):])
}

// writeKey makes a key by which an API server signs the tokens of service accounts.
func writeKey(t *testing.T, name string) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	block := &pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}
	if err := os.WriteFile(name, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
}

// makeCgroups makes a cgroup in every hierarchy, of either version. They go with the
// cell, of which they bear the name.
func makeCgroups(t *testing.T, name string) {
	t.Helper()
	roots, err := filepath.Glob("/sys/fs/cgroup/*/cgroup.procs")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		roots = []string{"/sys/fs/cgroup/cgroup.procs"}
	}
	for _, root := range roots {
		if err := os.Mkdir(filepath.Join(filepath.Dir(root), name), 0o755); err != nil && !os.IsExist(err) {
			t.Fatalf("making a cgroup for the pods: %v", err)
		}
	}
}

// eventually is harness.Eventually for what a test cannot go on without.
func (c *cluster) eventually(t *testing.T, check func() error) {
	t.Helper()
	if harness.Eventually(t, patience, check); t.Failed() {
		t.FailNow()
	}
}
