package agent

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/containerd/errdefs"

	agentv1 "github.com/hyperhq/hyper/proto/hyper/agent/v1"
)

// TestChangesAreALayer writes what an overlay has in its upper directory, and reads it
// as a layer of an image.
func TestChangesAreALayer(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: it makes device nodes and trusted attributes")
	}
	upper := t.TempDir()
	at := func(name string) string { return filepath.Join(upper, name) }
	for _, err := range []error{
		os.Chmod(upper, 0o700),
		os.MkdirAll(at("dir/opaque"), 0o750),
		os.WriteFile(at("dir/file"), []byte("content"), 0o640),
		os.Link(at("dir/file"), at("second")),
		os.Symlink("dir/file", at("symbolic")),
		unix.Mknod(at("dir/deleted"), unix.S_IFCHR, 0),
		unix.Mknod(at("null"), unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))),
		unix.Mkfifo(at("fifo"), 0o600),
		unix.Setxattr(at("dir/opaque"), "trusted.overlay.opaque", []byte("y"), 0),
		unix.Setxattr(at("dir"), "trusted.overlay.origin", []byte("of overlayfs"), 0),
		unix.Setxattr(at("dir/file"), "user.color", []byte("red"), 0),
		os.Lchown(at("dir/file"), 7, 8),
		os.Chmod(at("dir/file"), 0o640|os.ModeSetuid),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	socket, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(socket)
	if err := unix.Bind(socket, &unix.SockaddrUnix{Name: at("socket")}); err != nil {
		t.Fatal(err)
	}

	var archive bytes.Buffer
	if err := writeChanges(&archive, upper); err != nil {
		t.Fatal(err)
	}
	want := []string{
		". dir 700 0:0",
		"dir dir 750 0:0",
		"dir/.wh.deleted file 0 0:0",
		"dir/file file 4640 7:8 content red",
		"dir/opaque dir 750 0:0",
		"dir/opaque/.wh..wh..opq file 0 0:0",
		"fifo fifo 600 0:0",
		"null char 600 0:0 1:3",
		"second link 4640 7:8 dir/file",
		"symbolic symlink 777 0:0 dir/file",
	}
	if got := listArchive(t, &archive); !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func listArchive(t *testing.T, archive io.Reader) []string {
	t.Helper()
	kinds := map[byte]string{
		tar.TypeReg: "file", tar.TypeDir: "dir", tar.TypeLink: "link", tar.TypeSymlink: "symlink",
		tar.TypeFifo: "fifo", tar.TypeChar: "char",
	}
	var list []string
	r := tar.NewReader(archive)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return list
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		line := fmt.Sprintf("%s %s %o %d:%d", h.Name, kinds[h.Typeflag], h.Mode, h.Uid, h.Gid)
		if h.Typeflag == tar.TypeChar {
			line += fmt.Sprintf(" %d:%d", h.Devmajor, h.Devminor)
		}
		for _, word := range []string{h.Linkname, string(data), h.PAXRecords[xattrRecord+"user.color"]} {
			if word != "" {
				line += " " + word
			}
		}
		for name := range h.PAXRecords {
			if strings.Contains(name, overlayXattrs) {
				t.Errorf("%s has %s", h.Name, name)
			}
		}
		list = append(list, line)
	}
}

func TestRootfsThatIsRefused(t *testing.T) {
	for _, test := range []*agentv1.Rootfs{
		{},
		{Image: "image1"},
		{Image: "image1", Target: rootfsDir + "/c"},
		{Image: "image1", Target: rootfsDir + "/other/rootfs"},
		{Image: "image1", Target: rootfsDir + "/c/../other/rootfs"},
		{Image: "../../etc", Target: rootfsDir + "/c/rootfs"},
		{Image: "image1", Scratch: "a b", Target: rootfsDir + "/c/rootfs"},
		{Image: strings.Repeat("x", maxSerial+1), Target: rootfsDir + "/c/rootfs"},
	} {
		if err := validateRootfs("c", test); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%v: %v", test, err)
		}
	}
	if err := validateRootfs("c", &agentv1.Rootfs{Image: "image1", Scratch: "scratch1", Target: rootfsDir + "/c/rootfs"}); err != nil {
		t.Error(err)
	}
}
