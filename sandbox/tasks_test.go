package sandbox

import (
	"sync"
	"sync/atomic"
	"testing"
)

// TestTasksBesideTheirEnd has tasks begun while they are awaited: none is lost, and none
// is left behind, neither by the wait nor by who begins it.
func TestTasksBesideTheirEnd(t *testing.T) {
	for range 200 {
		var all tasks
		var begun, done atomic.Int32
		begin := func() {
			begun.Add(1)
			all.Go(func() { done.Add(1) })
		}
		var callers sync.WaitGroup
		for range 4 {
			callers.Go(begin)
		}
		all.Wait()
		callers.Wait()
		all.Wait()
		if done.Load() != begun.Load() {
			t.Fatalf("%d of %d were done", done.Load(), begun.Load())
		}
	}
}

// TestALateTaskIsItsCallers is the same in a certain order.
func TestALateTaskIsItsCallers(t *testing.T) {
	var all tasks
	all.Wait()
	done := false
	all.Go(func() { done = true })
	if !done {
		t.Error("nobody has waited for it")
	}
}
