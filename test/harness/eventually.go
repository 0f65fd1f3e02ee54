package harness

import (
	"context"
	"time"
)

// Eventually repeats a check until it passes, for what ends asynchronously
// without an event that a test could wait for; it fails with the last error. The
// limit is longer on a machine that is said to be slow, and checks, which may look at
// all processes, are rarer.
func Eventually(t interface {
	Helper()
	Errorf(format string, args ...any)
}, limit time.Duration, check func() error) {
	t.Helper()
	limit = Slowly(limit)
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	var p pace
	for {
		p.look()
		err := check()
		if err == nil {
			return
		}
		if p.rest(ctx) != nil {
			t.Errorf("after %v: %v", limit, err)
			return
		}
	}
}
