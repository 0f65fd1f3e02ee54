package harness

import (
	"context"
	"strings"
	"time"
)

// TeardownLimit is how long what ends asynchronously may outlive the request
// that ended it. A killed process of which the kernel still frees the memory on
// a busy machine is no leak; what is left for good is left after this as well.
const TeardownLimit = 20 * time.Second

// CheckLeaks compares the host at the end of the test, after all its other
// cleanups, with how it is now. It is to be called first.
func (c *Cell) CheckLeaks(t interface {
	T
	Errorf(format string, args ...any)
}) {
	t.Helper()
	before := c.Snapshot()
	t.Cleanup(func() {
		left := c.LeftSince(before)
		if len(left) == 0 {
			return
		}
		t.Errorf("left behind:\n\t%s", strings.Join(left, "\n\t"))
		// So that what this test leaked is not counted against the next.
		c.purge(before)
	})
}

// LeftSince lists what is on the host that was not there before, giving what
// ends asynchronously its time to do so.
func (c *Cell) LeftSince(before Snapshot) []string {
	return within(context.Background(), Slowly(TeardownLimit), func() []string { return c.Snapshot().Since(before) })
}

// purge kills processes that are there now and were not before.
func (c *Cell) purge(before Snapshot) {
	for _, p := range c.Below() {
		if !before["process "+p.String()] {
			kill(p)
		}
	}
}
