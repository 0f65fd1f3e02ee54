package pool

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/hyperhq/hyper/sandbox/record"
)

// maxWhy bounds what is kept of why a machine could not be made, in bytes.
const maxWhy = 4 << 10

// Place is that of one who waits, or will.
type Place struct {
	pool   *Pool
	key    string
	window time.Duration
	path   string
	file   *os.File // of the path, whose lock is held; nil when the place is released
	left   bool
}

// Dir is a private directory for the machine's files. Who takes it away to keep it does
// so before the place is released.
func (p *Place) Dir() string { return p.path + dirExt }

func (p *Place) socket() string { return p.path + socketExt }

// Record writes down who waits: its processes, for whoever finds that it was killed.
func (p *Place) Record(processes []record.Process) error {
	var b strings.Builder
	for _, process := range processes {
		fmt.Fprintln(&b, process)
	}
	// In place: another file would not have the lock.
	if _, err := p.file.WriteAt([]byte(b.String()), 0); err != nil {
		return fmt.Errorf("record who waits in the pool: %w", err)
	}
	return nil
}

// Made tells how long the making of the machine has lasted.
func (p *Place) Made(took time.Duration) error {
	return p.note(func(h *history) { h.Making, h.Failed, h.Why = took, time.Time{}, "" })
}

// Failed tells that no machine could be made: none is for a while.
func (p *Place) Failed(why error) error {
	text := why.Error()
	return p.note(func(h *history) { h.Failed, h.Why = time.Now(), text[:min(len(text), maxWhy)] })
}

func (p *Place) note(change func(*history)) error {
	unlock, err := p.pool.lock()
	if err != nil {
		return err
	}
	defer unlock()
	file := filepath.Join(p.pool.home(p.key), startsFile)
	h, err := readHistory(file)
	if err != nil {
		return err
	}
	change(h)
	return h.write(file)
}

// Release gives the place up without a wait for others: what is left of it, they or
// Leave remove. The processes that were recorded are nobody's to end any more. It may be
// called again.
func (p *Place) Release() error {
	if p.file == nil {
		return nil
	}
	// As long as the lock is held, nobody else touches these. The place itself can go only
	// under the pool's lock: another may be about to take it.
	err := errors.Join(os.RemoveAll(p.socket()), os.RemoveAll(p.Dir()))
	if terr := p.file.Truncate(0); terr != nil {
		// Who finds the record without a lock ends the processes.
		return errors.Join(fmt.Errorf("leave a place in the pool: %w", terr), err)
	}
	err = errors.Join(err, p.file.Close())
	p.file = nil
	return err
}

// Leave gives the place up, and removes it with what has no more use of its key. It may
// be called again, and should be when it fails.
func (p *Place) Leave() error {
	if p.left {
		return nil
	}
	if err := p.Release(); err != nil {
		return err
	}
	unlock, err := p.pool.lock()
	if err != nil {
		return err
	}
	defer unlock()
	p.left = true
	if _, err = sweepPlaceLocked(p.path); errors.Is(err, fs.ErrNotExist) {
		err = nil // others have removed all
	}
	return errors.Join(err, p.pool.forgetLocked(p.key, p.window))
}
