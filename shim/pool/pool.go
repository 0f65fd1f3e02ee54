package pool

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hyperhq/hyper/sandbox/record"
)

const (
	// startsFile has the history of a key.
	startsFile = "starts"
	socketExt  = ".sock"
	dirExt     = ".dir"
	// dyingTimeout bounds the end of what one that was killed has left.
	dyingTimeout = 2 * time.Second
	// lockTimeout bounds the wait for others who change the pool, and lockInterval is how
	// often it is looked whether they have.
	lockTimeout  = 10 * time.Second
	lockInterval = 5 * time.Millisecond
)

// Pool is a directory of those who wait. Any number of processes may use it.
type Pool struct{ dir string }

// New is the pool in a directory of run directories. It touches nothing.
func New(root string) *Pool { return &Pool{dir: filepath.Join(root, record.PoolDir)} }

func (p *Pool) home(key string) string { return filepath.Join(p.dir, key) }

// lock makes the pool's directory, and holds off others who change what is in it.
func (p *Pool) lock() (unlock func(), err error) {
	if err := os.MkdirAll(p.dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the pool's directory: %w", err)
	}
	f, err := os.Open(p.dir)
	if err != nil {
		return nil, fmt.Errorf("lock the pool: %w", err)
	}
	if err := awaitLock(f); err != nil {
		return nil, errors.Join(fmt.Errorf("lock the pool: %w", err), f.Close())
	}
	return func() { _ = f.Close() }, nil
}

// awaitLock takes the lock of a file. It waits some seconds for another who has it: a lock
// that one waits for in the kernel has no deadline, and who has it may never go on.
func awaitLock(f *os.File) error {
	for deadline := time.Now().Add(lockTimeout); ; time.Sleep(lockInterval) {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EWOULDBLOCK) || time.Now().After(deadline) {
			return err
		}
	}
}

// Note takes note of a start of a key, and says whether there should be more who wait
// than there are. It also removes what has no more use in the whole pool.
func (p *Pool) Note(key string, l Limits) (more bool, err error) {
	unlock, err := p.lock()
	if err != nil {
		return false, err
	}
	defer unlock()
	now := time.Now()
	if err := os.MkdirAll(p.home(key), 0o700); err != nil {
		return false, fmt.Errorf("make the pool's directory: %w", err)
	}
	file := filepath.Join(p.home(key), startsFile)
	h, err := readHistory(file)
	if err != nil {
		return false, err
	}
	h.note(now, l.Window)
	if err := h.write(file); err != nil {
		return false, err
	}
	waiting, err := p.sweepLocked(key)
	return waiting < h.wanted(now, l), errors.Join(err, p.sweepOthersLocked(key, l))
}

// Take gives a place of a key to the calling process, or nil if there are as many who
// wait as there should be.
func (p *Pool) Take(key string, l Limits) (*Place, error) {
	unlock, err := p.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	h, err := readHistory(filepath.Join(p.home(key), startsFile))
	if err != nil {
		return nil, err
	}
	waiting, err := p.sweepLocked(key)
	if err != nil || waiting >= h.wanted(time.Now(), l) {
		return nil, err
	}
	for n := range l.Max {
		f, err := takeFile(filepath.Join(p.home(key), strconv.Itoa(n)))
		if err != nil {
			return nil, err
		}
		if f == nil {
			continue
		}
		place := &Place{pool: p, key: key, window: l.Window, path: f.Name(), file: f}
		if err := os.Mkdir(place.Dir(), 0o711); err != nil {
			return nil, errors.Join(fmt.Errorf("take a place in the pool: %w", err), removePlace(f.Name()), f.Close())
		}
		return place, nil
	}
	return nil, nil
}

// takeFile makes a file and takes its lock. It gives nil if another has it.
func takeFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("take a place in the pool: %w", err)
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err == nil {
		return f, nil
	}
	f.Close()
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, nil
	}
	return nil, fmt.Errorf("take a place in the pool: %w", err)
}

// sweepLocked counts who waits for a key, and removes what is left of others.
func (p *Pool) sweepLocked(key string) (waiting int, err error) {
	entries, err := os.ReadDir(p.home(key))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("look who waits: %w", err)
	}
	var errs []error
	for _, e := range entries {
		if _, err := strconv.Atoi(e.Name()); err != nil {
			continue // no place
		}
		waits, err := sweepPlaceLocked(filepath.Join(p.home(key), e.Name()))
		if waits {
			waiting++
		}
		errs = append(errs, err)
	}
	return waiting, errors.Join(errs...)
}

// sweepPlaceLocked removes a place and what is left of it, unless somebody has it.
func sweepPlaceLocked(path string) (waits bool, err error) {
	f, err := takeFile(path)
	if err != nil || f == nil {
		return err == nil, err
	}
	return false, errors.Join(endDead(path), removePlace(path), f.Close())
}

// endDead ends processes of one who is gone, should the kernel not have.
func endDead(path string) error {
	hs, err := record.OpenAll(path)
	ctx, cancel := context.WithTimeout(context.Background(), dyingTimeout)
	defer cancel()
	return errors.Join(err, record.KillAll(ctx, hs))
}

// removePlace removes the files of a place.
func removePlace(path string) error {
	// The place itself last: as long as it is there, the rest is found.
	for _, name := range []string{path + socketExt, path + dirExt, path} {
		if err := os.RemoveAll(name); err != nil {
			return fmt.Errorf("leave a place in the pool: %w", err)
		}
	}
	return nil
}

// sweepOthersLocked removes what is left of other keys.
func (p *Pool) sweepOthersLocked(key string, l Limits) error {
	entries, err := os.ReadDir(p.dir)
	if err != nil {
		return fmt.Errorf("look through the pool: %w", err)
	}
	var errs []error
	for _, e := range entries {
		if e.Name() == key || !e.IsDir() {
			continue
		}
		if _, err := p.sweepLocked(e.Name()); err != nil {
			errs = append(errs, err)
		}
		errs = append(errs, p.forgetLocked(e.Name(), l.Window))
	}
	return errors.Join(errs...)
}

// forgetLocked removes the directory of a key for which nobody waits, and of which
// nothing need be remembered.
func (p *Pool) forgetLocked(key string, window time.Duration) error {
	file := filepath.Join(p.home(key), startsFile)
	h, err := readHistory(file)
	if err != nil || !h.empty(time.Now(), window) {
		return err
	}
	if entries, err := os.ReadDir(p.home(key)); err != nil || hasPlaces(entries) {
		return nil
	}
	if err := os.RemoveAll(p.home(key)); err != nil {
		return fmt.Errorf("forget a key of the pool: %w", err)
	}
	return nil
}

func hasPlaces(entries []fs.DirEntry) bool {
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), startsFile) {
			return true
		}
	}
	return false
}
