package stdio

import (
	"sync"
	"time"
)

// idleTime sums up how long a process was waited for since that counts.
type idleTime struct {
	mu    sync.Mutex
	since time.Time // zero: it does not count yet
	sum   time.Duration
}

// count begins to count, unless that has begun.
func (i *idleTime) count(now time.Time) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.since.IsZero() {
		i.since = now
	}
}

// add adds a wait, or the part of it that counts.
func (i *idleTime) add(begin, end time.Time) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.since.IsZero() {
		return
	}
	if begin.Before(i.since) {
		begin = i.since
	}
	i.sum += max(end.Sub(begin), 0)
}

func (i *idleTime) total() time.Duration {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.sum
}
