package template

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/hyperhq/hyper/sandbox/record"
)

const (
	holders = "holders"
	// seals are what makes a file in memory what it is for good, to whoever has it.
	seals = unix.F_SEAL_WRITE | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_SEAL
)

// Shared is the memory of a template that machines on this host have in common: a
// file in memory that nobody can change.
//
// There is no service that keeps it. Who has it says so, in a file of the store, and
// is found by those who want it too; the last who closes it, or dies, frees it.
type Shared struct {
	File   *os.File
	record string
}

// Share returns the memory of an image, from a process that has it or else from the
// store's file. Two that look for it at the same moment may have one each.
func (s *Store) Share(im *Image) (*Shared, error) {
	dir := filepath.Join(s.dir, holders)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("share a template's memory: %w", err)
	}
	f, err := im.held(dir)
	if err == nil && f == nil {
		f, err = im.load()
	}
	if err != nil {
		return nil, fmt.Errorf("share a template's memory: %w", err)
	}
	sh := &Shared{File: f}
	if sh.record, err = im.hold(dir, f); err != nil {
		f.Close()
		return nil, fmt.Errorf("share a template's memory: %w", err)
	}
	return sh, nil
}

// Close gives the memory up. Machines that map it keep it.
func (sh *Shared) Close() error {
	err := os.Remove(sh.record)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return errors.Join(err, sh.File.Close())
}

// load makes a file in memory of the image.
func (im *Image) load() (*os.File, error) {
	f, err := NewMemory(im.MemorySize())
	if err != nil {
		return nil, err
	}
	err = im.Fill(f)
	if err == nil {
		_, err = unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, seals)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// holder is what a record says: which open file of which process is the memory of
// which image. It is all in the record's name, so that nobody sees half of it.
type holder struct {
	key   string
	image uint64 // see identity
	pid   int
	start uint64 // of the process: see record.Process
	fd    int
	inode uint64
}

func (h holder) name() string {
	return fmt.Sprintf("%s-%x-%d-%d-%d-%d", h.key, h.image, h.pid, h.start, h.fd, h.inode)
}

func parseHolder(name string) (holder, bool) {
	fields := strings.Split(name, "-")
	if len(fields) != 6 {
		return holder{}, false
	}
	h := holder{key: fields[0]}
	var errs [5]error
	h.image, errs[0] = strconv.ParseUint(fields[1], 16, 64)
	h.pid, errs[1] = strconv.Atoi(fields[2])
	h.start, errs[2] = strconv.ParseUint(fields[3], 10, 64)
	h.fd, errs[3] = strconv.Atoi(fields[4])
	h.inode, errs[4] = strconv.ParseUint(fields[5], 10, 64)
	return h, errors.Join(errs[:]...) == nil && h.pid > 0 && h.fd >= 0
}

// identity tells an image from others that were stored by its key.
func (im *Image) identity() uint64 { return uint64(im.head.runSum)<<32 | uint64(im.head.stateSum) }

// hold notes that this process has the memory.
func (im *Image) hold(dir string, memory *os.File) (path string, err error) {
	self, err := record.Of(os.Getpid(), "")
	if err != nil {
		return "", err
	}
	inode, err := inodeOf(memory)
	if err != nil {
		return "", err
	}
	h := holder{key: im.key, image: im.identity(), pid: self.PID, start: self.Start, fd: int(memory.Fd()), inode: inode}
	path = filepath.Join(dir, h.name())
	return path, os.WriteFile(path, nil, 0o600)
}

// held opens the memory of the first holder that has it, or returns none. What is of
// processes that are gone is removed.
func (im *Image) held(dir string) (*os.File, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		h, ok := parseHolder(e.Name())
		if !ok || !h.lives() {
			_ = os.Remove(filepath.Join(dir, e.Name())) // or another has removed it
			continue
		}
		if h.key != im.key || h.image != im.identity() {
			continue
		}
		if f := im.open(h); f != nil {
			return f, nil
		}
	}
	return nil, nil
}

// lives says that the process is still the one that wrote the record.
func (h holder) lives() bool {
	now, err := record.Of(h.pid, "")
	return err == nil && now.Start == h.start
}

// open opens the memory that a holder has, if that is what it should be. Whatever the
// record says, a file that is sealed, of the inode and of the size is taken only from
// a process that is still the same afterwards.
func (im *Image) open(h holder) *os.File {
	f, err := os.Open(fmt.Sprintf("/proc/%d/fd/%d", h.pid, h.fd))
	if err != nil {
		return nil
	}
	if !im.isMemory(f, h.inode) || !h.lives() {
		f.Close()
		return nil
	}
	return f
}

func (im *Image) isMemory(f *os.File, inode uint64) bool {
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() || info.Size() != im.MemorySize() {
		return false
	}
	have, err := unix.FcntlInt(f.Fd(), unix.F_GET_SEALS, 0)
	if err != nil || have != seals {
		return false
	}
	got, err := inodeOf(f)
	return err == nil && got == inode
}

func inodeOf(f *os.File) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return 0, &fs.PathError{Op: "stat", Path: f.Name(), Err: err}
	}
	return st.Ino, nil
}
