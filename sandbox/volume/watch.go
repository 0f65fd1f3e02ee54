package volume

import (
	"context"
	"os"
	"time"
)

const (
	// quietTime is how long nothing must happen for a change to be over, and
	// longestChange how long that is waited for.
	quietTime     = 10 * time.Millisecond
	longestChange = 200 * time.Millisecond
)

// watch tells that something has changed in one of the directories it was given.
// A nil one tells nothing.
type watch struct {
	watcher  *Watcher
	happened chan struct{} // holds one, when something has
}

func newWatch(w *Watcher) *watch {
	if w == nil {
		return nil
	}
	return &watch{watcher: w, happened: make(chan struct{}, 1)}
}

func (w *watch) close() {
	if w != nil {
		w.watcher.remove(w)
	}
}

// add watches a directory, which it may do already.
func (w *watch) add(dir *os.File) error {
	if w == nil {
		return nil
	}
	return w.watcher.add(w, dir)
}

// drain forgets what has happened, and says whether something had.
func (w *watch) drain() bool {
	if w == nil {
		return false
	}
	w.watcher.poll()
	select {
	case <-w.happened:
		return true
	default:
		return false
	}
}

// remind has wait and drain find that something has happened.
func (w *watch) remind() {
	select {
	case w.happened <- struct{}{}:
	default: // nobody has looked since the last
	}
}

// wait waits until something has happened and nothing more does, or ctx ends.
func (w *watch) wait(ctx context.Context) error {
	select {
	case <-w.happened:
	case <-ctx.Done():
		return ctx.Err()
	}
	limit := time.After(longestChange)
	for {
		select {
		case <-w.happened:
		case <-time.After(quietTime):
			return nil
		case <-limit:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
