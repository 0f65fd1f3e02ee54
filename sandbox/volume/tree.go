package volume

import (
	"fmt"
	"io/fs"
	"os"
	"path"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
)

// MaxSize is what a volume may hold, in bytes, each file rounded up to a page.
const MaxSize = 64 << 20

const pageSize = 4096

// entry is what a tree has at a path.
type entry struct {
	kind       fs.FileMode // its type bits: a directory, a link, or 0 for a file
	mode       uint32      // as in chmod(2)
	uid, gid   uint32
	size       int64
	inode      uint64
	modified   time.Time
	changed    time.Time
	linkTarget string
}

// tree is a directory's content by path. The directory itself is ".".
type tree map[string]entry

// reader reads a tree.
type reader struct {
	root  *os.Root
	watch *watch // of each directory, from before it is read; or nil
	tree  tree
	size  int64
}

func readTree(source string, w *watch) (tree, error) {
	root, err := os.OpenRoot(source)
	if err != nil {
		return nil, fmt.Errorf("opening the volume: %w", err)
	}
	defer root.Close()
	r := &reader{root: root, watch: w, tree: tree{}}
	info, err := root.Lstat(".")
	if err != nil {
		return nil, fmt.Errorf("reading the volume: %w", err)
	}
	if err := r.add(".", info); err != nil {
		return nil, fmt.Errorf("reading volume %s: %w", source, err)
	}
	return r.tree, nil
}

// add adds what is at a path. What is no file, directory or link is left out.
func (r *reader) add(name string, info fs.FileInfo) error {
	e := newEntry(info)
	switch e.kind {
	case 0:
		r.size += (e.size + pageSize - 1) / pageSize * pageSize
	case fs.ModeDir:
		r.size += pageSize
	case fs.ModeSymlink:
		target, err := r.root.Readlink(name)
		if err != nil {
			return err
		}
		r.size += pageSize
		e.linkTarget = target
	default:
		return nil
	}
	if r.size > MaxSize {
		return fmt.Errorf("it holds more than %d MiB: %w", MaxSize>>20, errdefs.ErrResourceExhausted)
	}
	r.tree[name] = e
	if e.kind == fs.ModeDir {
		return r.addAll(name)
	}
	return nil
}

// addAll adds what is in a directory.
func (r *reader) addAll(dir string) error {
	f, err := r.root.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := r.watch.add(f); err != nil {
		return err
	}
	names, err := f.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		name = path.Join(dir, name)
		info, err := r.root.Lstat(name)
		if err != nil {
			return err
		}
		if err := r.add(name, info); err != nil {
			return err
		}
	}
	return nil
}

func newEntry(info fs.FileInfo) entry {
	e := entry{kind: info.Mode().Type(), size: info.Size(), modified: info.ModTime()}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		e.mode, e.uid, e.gid, e.inode = stat.Mode&0o7777, stat.Uid, stat.Gid, stat.Ino
		e.changed = time.Unix(stat.Ctim.Unix())
	}
	if e.kind == fs.ModeDir {
		e.size = 0
	}
	return e
}
