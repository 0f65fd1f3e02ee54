package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// maxReads bounds how often a volume that does not come to rest is read before
// its copy is made of what was seen last.
const maxReads = 5

// Copy is the copy of one volume. It is used by one goroutine at a time.
type Copy struct {
	source string
	send   Send
	watch  *watch // nil if it cannot be followed
	have   tree
	// readTree is the function of this name, or a test's.
	readTree func(source string, w *watch) (tree, error)
}

// New prepares the copy, in a directory of the guest that is empty, of a
// directory of the host. Without a watcher it cannot be followed.
func New(source string, send Send, w *Watcher) *Copy {
	return &Copy{source: source, send: send, watch: newWatch(w), have: tree{}, readTree: readTree}
}

// Close ends the copying, before the watcher's end. What the guest has stays.
func (c *Copy) Close() { c.watch.close() }

// Sync makes the copy what the volume is now. errdefs.ErrResourceExhausted if
// that is too large.
func (c *Copy) Sync(ctx context.Context) error {
	want, err := c.read()
	if err != nil {
		return err
	}
	if err := c.change(ctx, want); err != nil {
		// Some of it may be there, and is not to be taken for what it should be.
		for name := range want {
			if _, ok := c.have[name]; !ok {
				c.have[name] = entry{kind: fs.ModeIrregular}
			}
		}
		return fmt.Errorf("copying volume %s: %w", c.source, err)
	}
	c.have = want
	return nil
}

// read reads the volume when nothing changes in it. If that does not come, it gives
// what was seen last, and who follows the volume will look again.
func (c *Copy) read() (tree, error) {
	for i := 1; ; i++ {
		c.watch.drain()
		want, err := c.readTree(c.source, c.watch)
		// What vanished under our eyes has left an event.
		if !c.watch.drain() {
			return want, err
		}
		if i == maxReads {
			c.watch.remind()
			return want, err
		}
	}
}

func (c *Copy) change(ctx context.Context, want tree) error {
	list := steps(c.have, want)
	if len(list) == 0 {
		return nil
	}
	root, err := os.OpenRoot(c.source)
	if err != nil {
		return err
	}
	defer root.Close()
	s := &sender{send: c.send, root: root}
	for _, made := range list {
		if err := s.add(ctx, made); err != nil {
			return err
		}
	}
	return s.flush(ctx)
}

// Follow keeps the copy what the volume is, until ctx ends or the volume is gone.
// What cannot be copied is told to warn, and the copy stays as it is until the
// volume changes again.
func (c *Copy) Follow(ctx context.Context, warn func(error)) {
	defer c.Close()
	if c.watch == nil {
		return
	}
	for c.watch.wait(ctx) == nil {
		err := c.Sync(ctx)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			warn(err)
		}
		if _, gone := os.Stat(c.source); errors.Is(gone, fs.ErrNotExist) {
			return
		}
	}
}
