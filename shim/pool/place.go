package pool

import (
	"errors"
	"fmt"
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
	file   *os.File // whose lock is held
}

// Dir is a private directory for the machine's files. Who takes it away to keep it does
// so before the place is left.
func (p *Place) Dir() string { return p.file.Name() + dirExt }

func (p *Place) socket() string { return p.file.Name() + socketExt }

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

// Leave gives the place up, and with it what has no more use of its key. It may be
// called again.
func (p *Place) Leave() error {
	if p.file == nil {
		return nil
	}
	unlock, err := p.pool.lock()
	if err != nil {
		return err
	}
	defer unlock()
	err = errors.Join(removePlace(p.file.Name()), p.file.Close())
	p.file = nil
	return errors.Join(err, p.pool.forgetLocked(p.key, p.window))
}
