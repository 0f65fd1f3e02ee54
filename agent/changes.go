package agent

import (
	"archive/tar"
	"bufio"
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/containerd/errdefs"
)

// The names by which an archive of a layer tells what is no more: see the OCI image
// specification, layer.md.
const (
	whiteoutPrefix = ".wh."
	opaqueMarker   = ".wh..wh..opq"
)

const (
	overlayXattrs = "trusted.overlay."
	opaqueXattr   = overlayXattrs + "opaque"
	// xattrRecord begins the names of records of extended attributes in an archive.
	xattrRecord = "SCHILY.xattr."

	// maxAttribute is what the names of a file's attributes, or one of these, can take
	// (XATTR_LIST_MAX, XATTR_SIZE_MAX), and sendBuffer how much is sent at once, in bytes.
	maxAttribute = 64 << 10
	sendBuffer   = 64 << 10
)

// saveChanges sends what the container has changed in its root file system, or with
// stream 0 only says whether it has. A container that is not paused has its processes
// ended first.
func (c *container) saveChanges(ctx context.Context, from *streams, stream uint64) (changed bool, err error) {
	if err := c.acquire(ctx); err != nil {
		return false, err
	}
	defer c.release()
	if c.rootfs == nil || c.rootfs.upper == "" {
		return false, nil
	}
	if state, _ := c.init.current(); state != stateStopped && !c.paused {
		return false, fmt.Errorf("container %s is neither paused nor stopped: %w", c.id, errdefs.ErrFailedPrecondition)
	}
	if !c.paused {
		if err := c.end(ctx, c.lastExecs()); err != nil {
			return false, err
		}
	}
	if changed, err = c.rootfs.changed(); err != nil || stream == 0 {
		return changed, err
	}
	conn, err := from.claim(ctx, stream)
	if err != nil {
		return changed, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	if err := writeChanges(conn, c.rootfs.upper); err != nil {
		return changed, fmt.Errorf("sending the changes of container %s: %w", c.id, err)
	}
	return changed, nil
}

// unchanged says, when the container's init has ended, that nothing was written to a
// root file system on disks, and that nobody is left who could.
func (c *container) unchanged() bool {
	if c.rootfs == nil || c.rootfs.upper == "" || !c.privatePIDs() {
		return false
	}
	changed, err := c.rootfs.changed()
	return err == nil && !changed
}

// changed says whether the container has written anything.
func (r *rootfs) changed() (bool, error) {
	entries, err := os.ReadDir(r.upper)
	if err != nil || len(entries) > 0 {
		return true, err
	}
	var now, first unix.Stat_t
	if err := unix.Stat(r.upper, &now); err != nil {
		return true, err
	}
	if err := unix.Stat(filepath.Join(r.dir, "image"), &first); err != nil {
		return true, err
	}
	return now.Mode != first.Mode || now.Uid != first.Uid || now.Gid != first.Gid, nil
}

// writeChanges writes the upper directory of an overlay as the archive of a layer.
func writeChanges(w io.Writer, upper string) error {
	buffered := bufio.NewWriterSize(w, sendBuffer)
	a := archiver{
		upper: upper, tar: tar.NewWriter(buffered), links: map[uint64]string{},
		attributes: make([]byte, maxAttribute), data: make([]byte, sendBuffer),
	}
	err := filepath.WalkDir(upper, func(file string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return a.add(file)
	})
	if err != nil {
		return err
	}
	if err := a.tar.Close(); err != nil {
		return err
	}
	return buffered.Flush()
}

// archiver writes an archive.
type archiver struct {
	upper string
	tar   *tar.Writer
	links map[uint64]string // names of files that have several, by inode
	// Room for an attribute, and for a part of a file. There may be many files.
	attributes, data []byte
}

func (a *archiver) add(file string) error {
	name, err := filepath.Rel(a.upper, file)
	if err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Lstat(file, &st); err != nil {
		return &os.PathError{Op: "lstat", Path: file, Err: err}
	}
	kind := st.Mode & unix.S_IFMT
	switch {
	case kind == unix.S_IFSOCK:
		return nil // an archive has none, and nobody would listen there
	case kind == unix.S_IFCHR && st.Rdev == 0:
		return a.mark(path.Join(path.Dir(name), whiteoutPrefix+path.Base(name)))
	}
	h, err := a.header(name, file, &st)
	if err != nil {
		return err
	}
	if err := a.tar.WriteHeader(h); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	switch {
	case h.Typeflag == tar.TypeReg:
		return a.content(file, h.Size)
	case h.Typeflag == tar.TypeDir && isOpaque(file):
		return a.mark(path.Join(name, opaqueMarker))
	}
	return nil
}

// mark writes an empty file whose name says something.
func (a *archiver) mark(name string) error {
	return a.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, ModTime: time.Unix(0, 0)})
}

// header describes a file, and for one that was there under another name, that.
func (a *archiver) header(name, file string, st *unix.Stat_t) (*tar.Header, error) {
	h := &tar.Header{
		Format: tar.FormatPAX, Name: name,
		Mode: int64(st.Mode &^ unix.S_IFMT), Uid: int(st.Uid), Gid: int(st.Gid),
		ModTime: time.Unix(st.Mtim.Unix()),
	}
	var err error
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		h.Typeflag, h.Size = tar.TypeReg, st.Size
	case unix.S_IFDIR:
		h.Typeflag = tar.TypeDir
	case unix.S_IFLNK:
		h.Typeflag = tar.TypeSymlink
		h.Linkname, err = os.Readlink(file)
	case unix.S_IFIFO:
		h.Typeflag = tar.TypeFifo
	case unix.S_IFCHR, unix.S_IFBLK:
		h.Typeflag = tar.TypeChar
		if st.Mode&unix.S_IFMT == unix.S_IFBLK {
			h.Typeflag = tar.TypeBlock
		}
		h.Devmajor, h.Devminor = int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev))
	}
	if err != nil {
		return nil, err
	}
	if st.Nlink > 1 && h.Typeflag != tar.TypeDir {
		if first, ok := a.links[st.Ino]; ok {
			h.Typeflag, h.Linkname, h.Size = tar.TypeLink, first, 0
			return h, nil
		}
		a.links[st.Ino] = name
	}
	h.PAXRecords, err = a.xattrRecords(file)
	return h, err
}

// content writes a file's, of a size that the header has promised.
func (a *archiver) content(file string, size int64) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	// Not by the file's own ways to be copied, which look for buffers themselves.
	n, err := io.CopyBuffer(struct{ io.Writer }{a.tar}, struct{ io.Reader }{io.LimitReader(f, size)}, a.data)
	if err == nil && n != size {
		err = fmt.Errorf("%s has become shorter: %w", file, io.ErrUnexpectedEOF)
	}
	return err
}

func isOpaque(dir string) bool {
	var value [1]byte
	n, err := unix.Lgetxattr(dir, opaqueXattr, value[:])
	return err == nil && n == 1 && value[0] == 'y'
}

// xattrRecords are the extended attributes of a file, but for overlayfs's own.
func (a *archiver) xattrRecords(file string) (map[string]string, error) {
	n, err := unix.Llistxattr(file, a.attributes)
	if err != nil || n == 0 {
		return nil, ignoreUnsupported(err)
	}
	records := make(map[string]string)
	for name := range strings.SplitSeq(string(a.attributes[:n]), "\x00") {
		if name == "" || strings.HasPrefix(name, overlayXattrs) {
			continue
		}
		n, err := unix.Lgetxattr(file, name, a.attributes)
		if err != nil {
			return nil, fmt.Errorf("reading the attribute %s of %s: %w", name, file, err)
		}
		records[xattrRecord+name] = string(a.attributes[:n])
	}
	return records, nil
}

func ignoreUnsupported(err error) error {
	if err == unix.ENOTSUP {
		return nil
	}
	return err
}
