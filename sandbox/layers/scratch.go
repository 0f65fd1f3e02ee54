package layers

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// OpenEmpty opens the empty file system of a size, for Copy. The error is an
// fs.ErrNotExist if it has not been made.
func (c Cache) OpenEmpty(mib uint64) (*os.File, error) { return os.Open(c.emptyFile(mib)) }

func (c Cache) emptyFile(mib uint64) string { return filepath.Join(c.Dir, fmt.Sprintf("%d.ext4", mib)) }

// MakeEmpty makes the empty file system of a size, unless it is there. Whoever makes
// it at the same time makes the same.
func (c Cache) MakeEmpty(ctx context.Context, mib uint64) (err error) {
	if _, err := os.Stat(c.emptyFile(mib)); err == nil {
		return nil
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("making an empty file system: %w", err)
		}
	}()
	program, err := lookMkfsExt4()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(c.Dir, ".ext4-")
	if err != nil {
		return err
	}
	defer f.Close()
	defer os.Remove(f.Name()) // gone by then if all went well
	if err := f.Truncate(int64(mib) << 20); err != nil {
		return err
	}
	// It lives as long as a machine does: no journal, no checksums but those that tell
	// what was never used, nothing kept for root, no room to grow. The file reads as
	// zeros, so nothing need be cleared.
	if err := runMkfs(ctx, int64(mib)<<20, program, "-q", "-F", "-m", "0", "-b", "4096",
		"-O", "^has_journal,^resize_inode,^metadata_csum,uninit_bg", "-E", "nodiscard,lazy_itable_init=1", f.Name()); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	return os.Rename(f.Name(), c.emptyFile(mib))
}

// lookMkfsExt4 looks also where an unprivileged user's PATH does not lead.
func lookMkfsExt4() (string, error) {
	for _, name := range []string{"mkfs.ext4", "/usr/sbin/mkfs.ext4", "/sbin/mkfs.ext4"} {
		if program, err := exec.LookPath(name); err == nil {
			return program, nil
		}
	}
	return "", fmt.Errorf("mkfs.ext4 is not found: install e2fsprogs: %w", errdefs.ErrNotFound)
}

// Copy makes a file without a name in a directory, with what another holds. Both take
// room only for what has been written.
func Copy(from *os.File, dir string) (_ *os.File, err error) {
	to, err := os.OpenFile(dir, unix.O_TMPFILE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("making a scratch disk: %w", err)
	}
	defer func() {
		if err != nil {
			to.Close()
			err = fmt.Errorf("making a scratch disk in %s: %w", dir, err)
		}
	}()
	info, err := from.Stat()
	if err != nil {
		return nil, err
	}
	if err := to.Truncate(info.Size()); err != nil {
		return nil, err
	}
	return to, copyExtents(from, to, info.Size())
}

func copyExtents(from, to *os.File, size int64) error {
	for at := int64(0); at < size; {
		data, err := unix.Seek(int(from.Fd()), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) { // only a hole is left
			return nil
		}
		if err != nil {
			return err
		}
		if at, err = unix.Seek(int(from.Fd()), data, unix.SEEK_HOLE); err != nil {
			return err
		}
		if err := copyRange(from, to, data, at); err != nil {
			return err
		}
	}
	return nil
}

// copyRange copies by the kernel, which may share instead.
func copyRange(from, to *os.File, begin, end int64) error {
	in, out := begin, begin
	for in < end {
		n, err := unix.CopyFileRange(int(from.Fd()), &in, int(to.Fd()), &out, int(end-in), 0)
		if errors.Is(err, unix.EXDEV) || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EINVAL) {
			return copyBytes(from, to, in, end)
		}
		if err != nil {
			return err
		}
		if n == 0 {
			return fmt.Errorf("%s: %w", from.Name(), fs.ErrInvalid)
		}
	}
	return nil
}

// copyBytes is for a kernel or file systems that cannot do it by themselves.
func copyBytes(from, to *os.File, begin, end int64) error {
	buf := make([]byte, 64<<10)
	for begin < end {
		part := buf[:min(int64(len(buf)), end-begin)]
		if _, err := from.ReadAt(part, begin); err != nil {
			return err
		}
		if _, err := to.WriteAt(part, begin); err != nil {
			return err
		}
		begin += int64(len(part))
	}
	return nil
}

// allocated is what a file takes, in bytes.
func allocated(info fs.FileInfo) int64 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return st.Blocks * 512
	}
	return info.Size()
}
