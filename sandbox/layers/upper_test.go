package layers

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// layer makes an archive. A root directory comes first.
func layer(t *testing.T, entries ...tar.Header) *bytes.Buffer {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, h := range append([]tar.Header{{Name: "./", Typeflag: tar.TypeDir, Mode: 0o711}}, entries...) {
		text := h.PAXRecords["text"]
		delete(h.PAXRecords, "text")
		h.Size = int64(len(text))
		must(t, w.WriteHeader(&h))
		_, err := io.WriteString(w, text)
		must(t, err)
	}
	must(t, w.Close())
	return &buf
}

func regular(name, text string) tar.Header {
	return tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, PAXRecords: map[string]string{"text": text}}
}

func whole() error { return nil }

// snapshot makes a snapshot's directory, and gives that of what was written.
func snapshot(t *testing.T) (upper string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: it makes device nodes and trusted attributes")
	}
	upper = filepath.Join(t.TempDir(), "1", "fs")
	write(t, filepath.Join(upper, "before"), "before", 0o644)
	return upper
}

// names are all below a snapshot's directory.
func names(t *testing.T, upper string) string {
	t.Helper()
	var list []string
	must(t, filepath.WalkDir(filepath.Dir(upper), func(path string, _ os.DirEntry, err error) error {
		name, _ := filepath.Rel(filepath.Dir(upper), path)
		list = append(list, name)
		return err
	}))
	return strings.Join(list, " ")
}

func TestReplace(t *testing.T) {
	upper := snapshot(t)
	archive := layer(t,
		regular("dir/file", "text"),
		tar.Header{Name: "dir/.wh.deleted", Typeflag: tar.TypeReg},
		tar.Header{Name: "opaque", Typeflag: tar.TypeDir, Mode: 0o700},
		tar.Header{Name: "opaque/.wh..wh..opq", Typeflag: tar.TypeReg},
		tar.Header{Name: "attributes", Typeflag: tar.TypeReg, PAXRecords: map[string]string{
			"SCHILY.xattr.user.color": "red", "SCHILY.xattr.trusted.overlay.redirect": "/etc", "SCHILY.xattr.security.selinux": "any",
		}},
	)
	must(t, Replace(t.Context(), upper, archive, 1<<20, whole))
	if got, want := names(t, upper), ". fs fs/attributes fs/dir fs/dir/deleted fs/dir/file fs/opaque"; got != want {
		t.Errorf("there are %s, want %s", got, want)
	}
	var st unix.Stat_t
	must(t, unix.Lstat(filepath.Join(upper, "dir/deleted"), &st))
	if st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != 0 {
		t.Errorf("the whiteout is %o %x", st.Mode, st.Rdev)
	}
	if got := xattr(t, filepath.Join(upper, "opaque"), "trusted.overlay.opaque"); got != "y" {
		t.Errorf("the opaque directory has %q", got)
	}
	list := make([]byte, 1024)
	n, err := unix.Listxattr(filepath.Join(upper, "attributes"), list)
	must(t, err)
	if got := string(list[:n]); got != "user.color\x00" {
		t.Errorf("the attributes are %q", got)
	}
	if info, err := os.Stat(upper); err != nil || info.Mode().Perm() != 0o711 {
		t.Errorf("the root directory: %v, %v", info.Mode(), err)
	}
}

// TestReplaceStaysInside has archives of hostile guests.
func TestReplaceStaysInside(t *testing.T) {
	for name, entries := range map[string][]tar.Header{
		"parent":            {regular("../../out", "x")},
		"absolute":          {regular("/out", "x")},
		"by a link":         {{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "../.."}, regular("l/out", "x")},
		"by an absolute":    {{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "/"}, regular("l/out", "x")},
		"over a link":       {{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "../before"}, regular("l", "x")},
		"hard link":         {{Name: "l", Typeflag: tar.TypeLink, Linkname: "../../secret"}},
		"whiteout":          {{Name: "../.wh.fs", Typeflag: tar.TypeReg}},
		"whiteout of dots":  {{Name: ".wh...", Typeflag: tar.TypeReg}},
		"opaque by a link":  {{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "../.."}, {Name: "l/.wh..wh..opq", Typeflag: tar.TypeReg}},
		"the root replaced": {{Name: ".", Typeflag: tar.TypeSymlink, Linkname: "/"}, regular("out", "x")},
	} {
		t.Run(name, func(t *testing.T) {
			upper := snapshot(t)
			home := filepath.Dir(filepath.Dir(upper))
			write(t, filepath.Join(home, "secret"), "secret", 0o600)
			// Refused, or made to be inside: both will do.
			if err := Replace(t.Context(), upper, layer(t, entries...), 1<<20, whole); err != nil {
				t.Log(err)
			}
			for _, path := range []string{filepath.Join(home, "out"), filepath.Join(home, "1", "out"), "/out"} {
				if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("%s was made: %v", path, err)
				}
			}
			entries, err := os.ReadDir(home)
			must(t, err)
			if len(entries) != 2 {
				t.Errorf("beside the snapshot are %s", entries)
			}
			var st unix.Stat_t
			must(t, unix.Lstat(filepath.Join(home, "secret"), &st))
			if st.Nlink != 1 {
				t.Error("a file outside has another name")
			}
			if info, err := os.Lstat(upper); err != nil || !info.IsDir() {
				t.Errorf("the upper directory is %v, %v", info, err)
			}
		})
	}
}

// TestReplaceIsWholeOrNothing has transfers that end too early.
func TestReplaceIsWholeOrNothing(t *testing.T) {
	full := layer(t, regular("file", strings.Repeat("x", 100000))).Bytes()
	for name, test := range map[string]struct {
		archive []byte
		most    int64
		whole   func() error
		is      error
	}{
		"cut":         {full[:50000], 1 << 20, whole, io.ErrUnexpectedEOF},
		"nothing":     {nil, 1 << 20, whole, nil},
		"garbage":     {bytes.Repeat([]byte("garbage"), 1000), 1 << 20, whole, tar.ErrHeader},
		"too much":    {full, 50000, whole, unix.EFBIG},
		"not all":     {full, 1 << 20, func() error { return fs.ErrClosed }, fs.ErrClosed},
		"endless end": {append(bytes.Clone(full), make([]byte, 2<<20)...), 1 << 20, whole, unix.EFBIG},
	} {
		t.Run(name, func(t *testing.T) {
			upper := snapshot(t)
			err := Replace(t.Context(), upper, bytes.NewReader(test.archive), test.most, test.whole)
			if err == nil || test.is != nil && !errors.Is(err, test.is) {
				t.Errorf("got %v, want %v", err, test.is)
			}
			if got := names(t, upper); got != ". fs fs/before" {
				t.Errorf("there are %s", got)
			}
		})
	}
}

// FuzzReplace: a guest sends any bytes for an archive.
func FuzzReplace(f *testing.F) {
	if os.Geteuid() != 0 {
		f.Skip("needs root: it makes device nodes and trusted attributes")
	}
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, h := range []tar.Header{
		{Name: "./", Typeflag: tar.TypeDir, Mode: 0o755},
		{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "../.."},
		{Name: "l/out", Typeflag: tar.TypeReg},
		{Name: "../.wh.x", Typeflag: tar.TypeReg},
	} {
		if err := w.WriteHeader(&h); err != nil {
			f.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		f.Fatal(err)
	}
	f.Add(buf.Bytes())
	f.Fuzz(func(t *testing.T, data []byte) {
		home := t.TempDir()
		upper := filepath.Join(home, "1", "fs")
		must(t, os.MkdirAll(upper, 0o755))
		if err := Replace(t.Context(), upper, bytes.NewReader(data), 1<<20, whole); err != nil {
			t.Log(err)
		}
		for _, dir := range []string{home, filepath.Join(home, "1")} {
			if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 || !entries[0].IsDir() {
				t.Errorf("%s has %s, %v", dir, entries, err)
			}
		}
	})
}
