package layers

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/containerd/v2/pkg/archive"
	"golang.org/x/sys/unix"
)

// xattrRecord begins the names of records of extended attributes in an archive.
const xattrRecord = "SCHILY.xattr."

// Replace makes the upper directory of an overlay, which must not be mounted, what the
// archive of a layer says. The archive may be hostile: it is trusted as little as a
// layer of an image, and has at most so many bytes. whole is called when all of it has
// been read, and says whether it was all. The directory is exchanged in one step, or
// not at all.
func Replace(ctx context.Context, upper string, r io.Reader, most int64, whole func() error) (err error) {
	next, err := os.MkdirTemp(filepath.Dir(upper), ".hyper-upper-")
	if err != nil {
		return fmt.Errorf("making a directory for changes: %w", err)
	}
	defer func() {
		// What has this name now is not the upper directory, whatever happened.
		err = errors.Join(err, os.RemoveAll(next))
	}()
	bounded := &io.LimitedReader{R: r, N: most}
	var root *tar.Header
	_, err = archive.Apply(ctx, next, bounded, archive.WithConvertWhiteout(archive.OverlayConvertWhiteout), archive.WithFilter(func(h *tar.Header) (bool, error) {
		if h.Name == "." {
			root = h
			return false, nil
		}
		dropAttributes(h)
		return true, nil
	}))
	if err == nil {
		_, err = io.Copy(io.Discard, bounded) // what follows an archive's end
	}
	switch {
	case bounded.N == 0:
		return fmt.Errorf("the changes have more than %d bytes: %w", most, unix.EFBIG)
	case err != nil:
		return fmt.Errorf("reading changes: %w", err)
	case root == nil:
		return errors.New("reading changes: there is no root directory in them")
	}
	if err := whole(); err != nil {
		return err
	}
	if err := own(next, root); err != nil {
		return err
	}
	if err := unix.Renameat2(unix.AT_FDCWD, next, unix.AT_FDCWD, upper, unix.RENAME_EXCHANGE); err != nil {
		return fmt.Errorf("putting changes into %s: %w", upper, err)
	}
	return nil
}

// own gives a directory its owner and mode.
func own(dir string, h *tar.Header) error {
	if err := os.Lchown(dir, h.Uid, h.Gid); err != nil {
		return err
	}
	return os.Chmod(dir, h.FileInfo().Mode())
}

// dropAttributes leaves of a file's attributes those that a container may set. Others
// would mean something to the host.
func dropAttributes(h *tar.Header) {
	for record := range h.PAXRecords {
		name, ok := strings.CutPrefix(record, xattrRecord)
		if ok && !strings.HasPrefix(name, "user.") && !strings.HasPrefix(name, "system.posix_acl_") && name != "security.capability" {
			delete(h.PAXRecords, record)
		}
	}
}
