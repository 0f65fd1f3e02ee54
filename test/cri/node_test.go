package cri

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/hyperhq/hyper/test/harness"
	"github.com/hyperhq/hyper/test/image"
)

// patience is how long anything of a pod may take on a busy machine without
// hardware virtualization.
const patience = 60 * time.Second

// node is a machine that a kubelet could use: containerd with CRI and a network.
type node struct {
	t       *testing.T // of the whole suite on this node
	options harness.CellOptions
	cell    *harness.Cell
	network *harness.NetNS
	runtime runtimeapi.RuntimeServiceClient
	images  runtimeapi.ImageServiceClient
	pods    int   // made until now
	lent    *pod  // to tests that share one, or nil
	lentAt  int64 // what had been logged when it was last seen
	podDirs string
}

// newNode starts a containerd that is ended with the test.
func newNode(t *testing.T, o harness.CellOptions) *node {
	t.Helper()
	c, err := harness.NewCell(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Errorf("ending containerd: %v", err)
		}
	})
	quick := backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1.2, MaxDelay: 200 * time.Millisecond}
	conn, err := grpc.NewClient("unix://"+c.Socket(),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: quick, MinConnectTimeout: time.Second}),
		grpc.WithDefaultCallOptions(grpc.WaitForReady(true)),
	)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	n := &node{t: t, options: o, cell: c, network: o.Host.NetNS, runtime: runtimeapi.NewRuntimeServiceClient(conn), images: runtimeapi.NewImageServiceClient(conn)}
	n.awaitImages(t)
	n.makePodDirs(t)
	n.makeBridge(t)
	return n
}

// makeBridge has CNI make what stays on a node once a pod with a published port
// was there: the bridge, and the rules by which packets find those of the pods.
func (n *node) makeBridge(t *testing.T) {
	t.Helper()
	p := n.pod(t, func(c *runtimeapi.PodSandboxConfig) {
		c.PortMappings = []*runtimeapi.PortMapping{{ContainerPort: 1, HostPort: 1}}
	})
	if err := p.remove(); err != nil {
		t.Fatalf("removing the first pod: %v", err)
	}
}

// awaitImages waits until CRI knows the images that were imported.
func (n *node) awaitImages(t *testing.T) {
	t.Helper()
	for _, name := range []string{image.Name, image.Pause} {
		harness.Eventually(t, patience, func() error {
			r, err := n.images.ImageStatus(t.Context(), &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: name}})
			if err == nil && r.Image == nil {
				err = fmt.Errorf("CRI does not know the image %s", name)
			}
			return err
		})
	}
}

// checkLeaks fails the test if it leaves anything on the node: what a cell can
// tell, and packet filter rules.
func (n *node) checkLeaks(t *testing.T) {
	t.Helper()
	n.cell.CheckLeaks(t)
	before := n.filterRules(t)
	t.Cleanup(func() {
		for _, rule := range n.filterRules(t) {
			if !slices.Contains(before, rule) {
				t.Errorf("left behind: packet filter rule %s", rule)
			}
		}
	})
}

// filterRules lists the rules of the packet filters without their counters.
func (n *node) filterRules(t *testing.T) []string {
	t.Helper()
	var rules []string
	for _, family := range []string{"iptables-save", "ip6tables-save"} {
		for line := range strings.Lines(n.command(t, family)) {
			if strings.HasPrefix(line, "-A ") {
				rules = append(rules, family+" "+strings.TrimSpace(line))
			}
		}
	}
	return rules
}

// in runs a function in the node's network namespace.
func (n *node) in(t *testing.T, do func() error) {
	t.Helper()
	if err := n.network.Do(do); err != nil {
		t.Fatal(err)
	}
}

// command runs a program in the node's network namespace.
func (n *node) command(t *testing.T, name string, args ...string) string {
	t.Helper()
	var out strings.Builder
	cmd := n.cell.Command(context.Background(), name, args...)
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := n.cell.RunCommand(cmd); err != nil {
		t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out.String())
	}
	return out.String()
}

// ctr runs ctr on what CRI has made, be the test about to end.
func (n *node) ctr(t *testing.T, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var out strings.Builder
	cmd := n.cell.CtrCommand(ctx, append([]string{"--namespace", "k8s.io"}, args...)...)
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := n.cell.RunCommand(cmd); err != nil {
		t.Fatalf("ctr %s: %v: %s", strings.Join(args, " "), err, out.String())
	}
}
