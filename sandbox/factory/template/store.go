package template

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

const (
	lockFile  = "lock"
	suffix    = ".template"
	unfinish  = ".unfinished"
	failed    = ".failed"
	failSpell = 10 * time.Minute
	// maxReason bounds what is kept of why a build failed, in bytes.
	maxReason = 4 << 10
)

// Store is a directory of templates. Any number of processes may use it.
type Store struct {
	dir      string
	maxCount int
	maxBytes int64
}

// NewStore is the store in a directory, which is made when it is needed, with room
// for so many templates and bytes.
func NewStore(dir string, maxCount int, maxBytes int64) *Store {
	return &Store{dir: dir, maxCount: maxCount, maxBytes: maxBytes}
}

// Key is the key of what a fingerprint tells from all others.
func Key(fingerprint string) string {
	sum := sha256.Sum256([]byte(fingerprint))
	return hex.EncodeToString(sum[:16])
}

func (s *Store) path(key, suffix string) string { return filepath.Join(s.dir, key+suffix) }

// Open opens a template, which counts as used. errdefs.ErrNotFound if there is none;
// one that is damaged is removed, and the error is ErrDamaged too.
func (s *Store) Open(key string) (*Image, error) {
	im, err := openImage(s.path(key, suffix), key)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("no template %s: %w", key, errdefs.ErrNotFound)
	case errors.Is(err, ErrDamaged):
		return nil, fmt.Errorf("template %s: %w: %w", key, errors.Join(err, s.remove(s.path(key, suffix))), errdefs.ErrNotFound)
	case err != nil:
		return nil, fmt.Errorf("open template %s: %w", key, err)
	}
	// The order of use is all that is lost if it cannot be noted.
	now := unix.NsecToTimespec(time.Now().UnixNano())
	_ = unix.UtimesNanoAt(unix.AT_FDCWD, im.file.Name(), []unix.Timespec{now, now}, unix.AT_SYMLINK_NOFOLLOW)
	return im, nil
}

// Drop removes the template that an image is of, unless another has come in its
// place. It is for one that is damaged. The image may be closed.
func (s *Store) Drop(im *Image) error {
	now, err := os.Stat(im.file.Name())
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("drop template %s: %w", im.key, err)
	case !os.SameFile(now, im.info):
		return nil
	}
	return s.remove(im.file.Name())
}

// Discredit removes the template that an image is of, and has it not built again for
// a while. It is for one that is whole and yet of no use. The image may be closed.
func (s *Store) Discredit(im *Image, why error) error {
	return errors.Join(s.Drop(im), s.fail(im.key, why))
}

func (s *Store) fail(key string, why error) error {
	text := why.Error()
	return os.WriteFile(s.path(key, failed), []byte(text[:min(len(text), maxReason)]), 0o600)
}

func (s *Store) remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove a template: %w", err)
	}
	return nil
}

// Wanted says that a template is not there and could be built. It is a guess: Build
// makes sure.
func (s *Store) Wanted(key string) bool {
	if _, err := os.Stat(s.path(key, suffix)); err == nil {
		return false
	}
	info, err := os.Stat(s.path(key, failed))
	return err != nil || time.Since(info.ModTime()) > failSpell
}

// Build makes the template of a key unless it is there. save saves a machine: its
// memory and the state of its devices, in files that Build closes. With
// errdefs.ErrUnavailable another builds, and errdefs.ErrFailedPrecondition says that a
// build failed not long ago; when this one fails, the next will be told so.
func (s *Store) Build(ctx context.Context, key string, save func(context.Context) (memory, state *os.File, err error)) error {
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return fmt.Errorf("make the directory of templates: %w", err)
	}
	unlock, err := s.lock()
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := os.Stat(s.path(key, suffix)); err == nil {
		return nil
	}
	if !s.Wanted(key) {
		why, _ := os.ReadFile(s.path(key, failed))
		return fmt.Errorf("a build failed less than %v ago (%s): %w", failSpell, why, errdefs.ErrFailedPrecondition)
	}
	if err := s.build(ctx, key, save); err != nil {
		return errors.Join(fmt.Errorf("build template %s: %w", key, err), s.fail(key, err))
	}
	return s.remove(s.path(key, failed))
}

// lock makes this process the store's builder until it is unlocked or ends. Children
// do not inherit the lock.
func (s *Store) lock() (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(s.dir, lockFile), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the templates: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("another process builds a template: %w", errdefs.ErrUnavailable)
		}
		return nil, fmt.Errorf("lock the templates: %w", err)
	}
	return func() { f.Close() }, nil
}

func (s *Store) build(ctx context.Context, key string, save func(context.Context) (memory, state *os.File, err error)) error {
	if err := s.sweep(); err != nil {
		return err
	}
	memory, state, err := save(ctx)
	if err != nil {
		return err
	}
	defer memory.Close()
	defer state.Close()
	tmp := s.path(key, unfinish)
	out, err := os.OpenFile(tmp, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	err = writeImage(out, memory, state)
	if err == nil {
		err = s.makeRoom(out)
	}
	if err == nil {
		err = os.Rename(tmp, s.path(key, suffix))
	}
	if err != nil {
		return errors.Join(err, s.remove(tmp))
	}
	return nil
}

// sweep removes what builders left that were killed, and old news of failures.
func (s *Store) sweep() error {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return fmt.Errorf("look through the templates: %w", err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			continue // gone
		}
		old := strings.HasSuffix(e.Name(), failed) && time.Since(info.ModTime()) > failSpell
		if old || strings.HasSuffix(e.Name(), unfinish) {
			if err := s.remove(filepath.Join(s.dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// makeRoom removes the templates that were not used for the longest time, until the
// new one fits in. The caller is the builder.
func (s *Store) makeRoom(fresh *os.File) error {
	info, err := fresh.Stat()
	if err != nil {
		return err
	}
	if info.Size() > s.maxBytes {
		return fmt.Errorf("it has %d MiB, and all templates together may have %d: allow more, or none: %w",
			info.Size()>>20, s.maxBytes>>20, errdefs.ErrResourceExhausted)
	}
	stored, bytes, err := s.stored()
	if err != nil {
		return err
	}
	count := len(stored)
	for _, old := range stored {
		if count < s.maxCount && bytes+info.Size() <= s.maxBytes {
			break
		}
		if err := s.remove(filepath.Join(s.dir, old.Name())); err != nil {
			return err
		}
		count--
		bytes -= old.Size()
	}
	return nil
}

// stored lists the templates, those first whose last use is longest ago.
func (s *Store) stored() (list []fs.FileInfo, bytes int64, err error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, 0, fmt.Errorf("look through the templates: %w", err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || !strings.HasSuffix(e.Name(), suffix) {
			continue
		}
		list = append(list, info)
		bytes += info.Size()
	}
	slices.SortFunc(list, func(a, b fs.FileInfo) int { return cmp.Compare(a.ModTime().UnixNano(), b.ModTime().UnixNano()) })
	return list, bytes, nil
}
