package e2e

import (
	"testing"

	"github.com/hyperhq/hyper/test/harness"
)

// keeper is a T for what outlives the test that has it made.
type keeper struct {
	*testing.T // the test that it is for at the moment
	undo       []func()
}

// Cleanup has something undone by end.
func (k *keeper) Cleanup(undo func()) { k.undo = append(k.undo, undo) }

// end undoes everything, the last first.
func (k *keeper) end(t *testing.T) {
	t.Helper()
	k.T = t
	for len(k.undo) > 0 {
		last := len(k.undo) - 1
		undo := k.undo[last]
		k.undo = k.undo[:last]
		undo()
	}
}

// sharedPod is a pod that tests have their containers in: what they look at does not
// depend on whose machine it is, and a machine takes longer to start than most of them do.
type sharedPod struct {
	keeper
	first *harness.Task
}

// lend sees to it that there is such a pod, and that the containers which the test makes
// join it. It stays until the lane has other tests to run, or until a test that had it has
// failed: the next gets another. Once it is gone nothing of it may be left.
func (l *lane) lend(t *testing.T) {
	t.Helper()
	if l.pod != nil && !l.pod.runs(t) {
		t.Error("the pod that tests share does not run any more")
		l.takeBack(t)
	}
	t.Cleanup(func() {
		l.cell.Always()
		if t.Failed() {
			l.takeBack(t)
		}
	})
	if l.pod == nil {
		l.pod = &sharedPod{keeper: keeper{T: t}}
		l.pod.make(l.cell)
	}
	l.cell.Always(inPod("container", l.pod.first.Container.ID))
}

// takeBack removes the pod that tests share, if there is one.
func (l *lane) takeBack(t *testing.T) {
	t.Helper()
	if pod := l.pod; pod != nil {
		l.pod = nil
		pod.end(t)
	}
}

func (p *sharedPod) make(c *harness.Cell) {
	c.CheckLeaks(p)
	id, err := c.NewID()
	if err != nil {
		p.Fatalf("making a pod for tests to share: %v", err)
	}
	p.first = c.ContainerWithID(p, id, harness.Args("sleep", "1000000"), inPod("sandbox", id)).Create(p, harness.IO{None: true})
	p.first.Start(p)
}

func (p *sharedPod) runs(t *testing.T) bool {
	if p.first == nil {
		return false
	}
	state, err := p.first.State(t)
	return err == nil && state.Status.String() == "RUNNING"
}
