package sandbox

import "sync"

// tasks are the goroutines of a sandbox: each ends soon after the sandbox's life.
type tasks struct {
	mu      sync.Mutex
	awaited bool
	running sync.WaitGroup
}

// Go runs f, which Wait then waits for. Who comes after that, in the end of a call that
// Stop did not wait for, waits for f itself.
func (t *tasks) Go(f func()) {
	t.mu.Lock()
	late := t.awaited
	if !late {
		t.running.Go(f)
	}
	t.mu.Unlock()
	if late {
		f()
	}
}

// Wait waits for all. It may be called again.
func (t *tasks) Wait() {
	t.mu.Lock()
	t.awaited = true
	t.mu.Unlock()
	t.running.Wait()
}
