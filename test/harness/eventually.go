package harness

import "time"

// Eventually repeats a check until it passes, for what ends asynchronously
// without an event that a test could wait for; it fails with the last error. The
// limit is longer on a machine that is said to be slow, and checks, which may look at
// all processes, are rarer.
func Eventually(t interface {
	Helper()
	Errorf(format string, args ...any)
}, limit time.Duration, check func() error) {
	t.Helper()
	deadline := time.After(Slowly(limit))
	tick := time.NewTicker(Slowly(20 * time.Millisecond))
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Errorf("%v", err)
			return
		}
	}
}
