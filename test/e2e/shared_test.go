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
	seen  int64 // what was logged when it was last seen to run
}

// lend sees to it that there is such a pod, and that the containers which the test makes
// join it. It stays until the lane has other tests to run, or until a test that had it has
// failed: the next gets another. Once it is gone nothing of it may be left.
func (l *lane) lend(t *testing.T) {
	t.Helper()
	if l.pod != nil {
		if how := l.pod.look(t); how != "RUNNING" {
			t.Errorf("the pod that tests share does not run any more: it is %s; the log since it did:\n%s", how, l.cell.LogSince(l.pod.seen))
			l.takeBack(t)
		}
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
	l.pod.seen = l.cell.LogSize()
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

// look says what the pod does now.
func (p *sharedPod) look(t *testing.T) string {
	if p.first == nil {
		return "not made"
	}
	state, err := p.first.State(t)
	if err != nil {
		return err.Error()
	}
	return state.Status.String()
}
