package layers

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Build builds the image of lower directories, unless it is there, another is at it or
// it has failed lately. The calling process must be in a mount namespace of its own:
// the layers are mounted in it for a while, and the mount ends with the process at
// the latest. When it fails that is noted, unless ctx ended it.
func (c Cache) Build(ctx context.Context, lower []string) error {
	key, err := Key(lower)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return fmt.Errorf("making the directory of images: %w", err)
	}
	if f, err := c.Open(key); err == nil {
		return f.Close()
	}
	if !c.Wanted(key) {
		return nil
	}
	building, err := c.claim(key)
	if building == nil || err != nil {
		return err
	}
	defer building.Close() // and with it the lock
	err = c.build(ctx, building, key, lower)
	if err == nil {
		err = c.prune(key)
	}
	if err == nil {
		return nil
	}
	err = errors.Join(fmt.Errorf("building the image of layers: %w", err), os.Remove(building.Name()))
	if ctx.Err() == nil {
		err = errors.Join(err, c.fail(key, err))
	}
	return err
}

// CanBuild says what is missing on this host to build images, if anything is.
func CanBuild() error {
	_, err := lookMkfsErofs()
	if err == nil {
		_, err = lookMkfsExt4()
	}
	return err
}

func lookMkfsErofs() (string, error) {
	program, err := exec.LookPath("mkfs.erofs")
	if err != nil {
		return "", fmt.Errorf("mkfs.erofs is not found: install erofs-utils: %w", errdefs.ErrNotFound)
	}
	return program, nil
}

// claim takes the file that an image is built in, and its lock. It gives nil if
// another has it.
func (c Cache) claim(key string) (*os.File, error) {
	f, err := os.OpenFile(c.file(key, buildingSuffix), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("making an image: %w", err)
	}
	if err := tryLock(f); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, nil
		}
		return nil, fmt.Errorf("locking an image: %w", err)
	}
	// Another may have finished it before we had the lock.
	same, err := isAt(f, f.Name())
	if err != nil || !same {
		f.Close()
		return nil, err
	}
	return f, nil
}

// tryLock takes the lock of a file, which ends when it is closed.
func tryLock(f *os.File) error { return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) }

// isAt says whether a path still names an open file.
func isAt(f *os.File, path string) (bool, error) {
	mine, err := f.Stat()
	if err != nil {
		return false, err
	}
	there, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil && os.SameFile(mine, there), err
}

// build makes the image in a file that is ours, and gives it its name.
func (c Cache) build(ctx context.Context, f *os.File, key string, lower []string) error {
	program, err := lookMkfsErofs()
	if err != nil {
		return err
	}
	if err := f.Truncate(0); err != nil {
		return err
	}
	most, err := c.room()
	if err != nil {
		return err
	}
	merged, unmount, err := c.merge(key, lower)
	if err != nil {
		return err
	}
	err = runMkfs(ctx, most, program, "--quiet", "--preserve-mtime", f.Name(), merged)
	if err = errors.Join(err, unmount()); err != nil {
		return err
	}
	// The directories could have been replaced while they were read.
	if now, err := Key(lower); err != nil || now != key {
		return errors.Join(errors.New("the layers have changed meanwhile"), err)
	}
	// mkfs may have made the file anew: then the lock is not on what is renamed.
	if same, err := isAt(f, f.Name()); err != nil || !same {
		return errors.Join(errors.New("mkfs.erofs has not written into the file that it was given"), err)
	}
	if err := checkImage(f); err != nil {
		return fmt.Errorf("mkfs.erofs has made no image: %w", err)
	}
	// It must be whole on the disk before it has its name, or a crash of the host
	// could leave a name for less.
	if err := f.Sync(); err != nil {
		return err
	}
	return os.Rename(f.Name(), c.file(key, imageSuffix))
}

// room is how many bytes an image may have. Nobody waits for it, so it must not take
// the last of the disk from those who do.
func (c Cache) room() (int64, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(c.Dir, &fs); err != nil {
		return 0, &os.PathError{Op: "statfs", Path: c.Dir, Err: err}
	}
	return min(c.MaxBytes, int64(fs.Bavail)*fs.Bsize/2), nil
}

// merge mounts what layers show together, on a directory of the key that unmount
// removes. An empty layer below makes of any number what an overlay that cannot be written needs;
// like this whiteouts and opaque directories take effect, and are not in the image.
func (c Cache) merge(key string, lower []string) (dir string, unmount func() error, err error) {
	home := c.file(key, mergedSuffix)
	dir, empty := filepath.Join(home, "merged"), filepath.Join(home, "empty")
	remove := func() error {
		err := unix.Unmount(dir, unix.MNT_DETACH)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
			err = nil // it never was, then
		}
		return errors.Join(err, c.removeMerged(key))
	}
	for _, d := range []string{home, dir, empty} {
		if err := os.Mkdir(d, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return "", nil, errors.Join(err, remove())
		}
	}
	options := "lowerdir=" + strings.Join(lower, ":") + ":" + empty
	if len(options) >= os.Getpagesize() {
		return "", nil, errors.Join(fmt.Errorf("%d layers have longer names together than a mount can have", len(lower)), remove())
	}
	// By this thread, whose mount namespace may be another than the process's.
	if err := unix.Mount("overlay", dir, "overlay", unix.MS_RDONLY, options); err != nil {
		return "", nil, errors.Join(fmt.Errorf("mounting the layers: %w", err), remove())
	}
	return dir, remove, nil
}

// removeMerged removes the directories of merge, and nothing that is in them.
func (c Cache) removeMerged(key string) error {
	home := c.file(key, mergedSuffix)
	for _, d := range []string{filepath.Join(home, "merged"), filepath.Join(home, "empty"), home} {
		if err := os.Remove(d); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// runMkfs runs a program that makes a file system, of at most so many bytes. It ends
// with ctx, and with this thread's process.
func runMkfs(ctx context.Context, most int64, program string, args ...string) error {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		return err
	}
	limit := unix.Rlimit{Cur: uint64(most), Max: uint64(most)}
	if err := unix.Prlimit(cmd.Process.Pid, unix.RLIMIT_FSIZE, &limit, nil); err != nil && !errors.Is(err, unix.ESRCH) {
		_ = cmd.Process.Kill()
		return errors.Join(fmt.Errorf("bounding %s: %w", program, err), cmd.Wait())
	}
	if err := cmd.Wait(); err != nil {
		text := out.String()
		return fmt.Errorf("%s: %w: %s", filepath.Base(program), err, strings.TrimSpace(text[max(0, len(text)-1024):]))
	}
	return nil
}
