package cri

import (
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// lend sees to it that there is a pod that tests share. It goes with the node, or when a
// test that had it has failed: the next gets another. Once it is gone nothing of it may be
// left.
func (n *node) lend(t *testing.T) {
	t.Helper()
	if n.lent != nil && n.lent.status(t).State != runtimeapi.PodSandboxState_SANDBOX_READY {
		t.Errorf("the pod that tests share is not ready any more; the log since it was:\n%s", n.cell.LogSince(n.lentAt))
		n.takeBack(t)
	}
	defer func() { n.lentAt = n.cell.LogSize() }()
	if n.lent != nil {
		return
	}
	n.checkLeaks(n.t)
	p, err := n.tryPod(n.t, nil)
	if err != nil {
		t.Fatalf("making a pod for tests to share: %v", err)
	}
	n.lent = p
}

// takeBack removes the pod that tests share.
func (n *node) takeBack(t *testing.T) {
	t.Helper()
	p := n.lent
	n.lent = nil
	if err := p.remove(); err != nil {
		t.Errorf("removing the pod that tests share: %v", err)
	}
}

// shared is the pod that tests share. What a test makes in it is removed after the test.
func (n *node) shared(t *testing.T) *pod {
	t.Helper()
	p := n.lent
	if p == nil {
		t.Fatal("the suite does not say that this test shares a pod")
	}
	t.Cleanup(func() {
		if t.Failed() && n.lent == p {
			n.takeBack(t)
		}
	})
	return p
}
