package image

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
)

// File types, as in the upper bits of an Entry's Mode. They are the ones of cpio, and of stat(2).
const (
	TypeMask    uint32 = 0o170000
	TypeDir     uint32 = 0o040000
	TypeRegular uint32 = 0o100000
	TypeSymlink uint32 = 0o120000
	TypeChar    uint32 = 0o020000
)

// An Entry is one file of an archive.
type Entry struct {
	// Name is the path relative to the root, without a leading slash: "dev/console".
	Name string
	// Mode holds the type and the permissions.
	Mode uint32
	// Data is the content of a regular file, or the target of a symbolic link.
	Data []byte
	// Major and Minor name the device of a device node.
	Major, Minor uint32
}

const (
	magic      = "070701"
	headerSize = len(magic) + 13*8
	trailer    = "TRAILER!!!"
	// blockSize is what the archive is padded to, as cpio(1) does.
	blockSize = 512
	// Limits of what Read accepts. A path is bounded by PATH_MAX, a file by what any guest could hold.
	maxName = 4096
	maxData = 1 << 30
)

// Write writes the entries as a "newc" cpio archive, in order of their names, whatever order they come in.
// A parent therefore precedes its children, which the kernel demands. It fails on a name that is empty,
// absolute, not clean, given twice, or without its parent directory.
func Write(w io.Writer, entries []Entry) error {
	sorted := slices.Clone(entries)
	slices.SortStableFunc(sorted, func(a, b Entry) int { return cmp.Compare(a.Name, b.Name) })
	if err := check(sorted); err != nil {
		return err
	}
	cw := &countingWriter{w: w}
	for i, e := range sorted {
		if err := writeEntry(cw, e, uint32(i+1)); err != nil {
			return fmt.Errorf("writing %s: %w", e.Name, err)
		}
	}
	if err := writeEntry(cw, Entry{Name: trailer}, 0); err != nil {
		return fmt.Errorf("writing the trailer: %w", err)
	}
	return cw.pad(blockSize)
}

// check refuses what the kernel would unpack wrongly or silently drop. It wants sorted entries.
func check(sorted []Entry) error {
	dirs := map[string]bool{"": true}
	for i, e := range sorted {
		if !cleanName(e.Name) {
			return fmt.Errorf("%q is not a clean relative path", e.Name)
		}
		if len(e.Name) >= maxName || len(e.Data) > maxData {
			return fmt.Errorf("%.80s: name or content too long", e.Name)
		}
		if i > 0 && sorted[i-1].Name == e.Name {
			return fmt.Errorf("%s is there twice", e.Name)
		}
		if parent := parentOf(e.Name); !dirs[parent] {
			return fmt.Errorf("%s has no parent directory %s", e.Name, parent)
		}
		switch e.Mode & TypeMask {
		case TypeDir:
			dirs[e.Name] = true
		case TypeRegular, TypeSymlink, TypeChar:
		default:
			return fmt.Errorf("%s has mode %#o, whose type is not known", e.Name, e.Mode)
		}
	}
	return nil
}

func cleanName(name string) bool {
	if name == trailer || strings.ContainsRune(name, 0) {
		return false
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == "" || part == "." || part == ".." {
			return false
		}
	}
	return true
}

func parentOf(name string) string {
	if i := strings.LastIndexByte(name, '/'); i >= 0 {
		return name[:i]
	}
	return ""
}

func writeEntry(w *countingWriter, e Entry, inode uint32) error {
	links := uint32(1)
	if e.Mode&TypeMask == TypeDir {
		links = 2
	}
	fields := [...]uint32{
		inode, e.Mode, 0, 0, links, 0, uint32(len(e.Data)),
		0, 0, e.Major, e.Minor, uint32(len(e.Name) + 1), 0,
	}
	header := make([]byte, 0, headerSize+len(e.Name)+1)
	header = append(header, magic...)
	for _, f := range fields {
		header = fmt.Appendf(header, "%08X", f)
	}
	header = append(header, e.Name...)
	header = append(header, 0)
	if _, err := w.Write(header); err != nil {
		return err
	}
	if err := w.pad(4); err != nil {
		return err
	}
	if _, err := w.Write(e.Data); err != nil {
		return err
	}
	return w.pad(4)
}

// countingWriter knows how much was written, and so how much padding is due.
type countingWriter struct {
	w io.Writer
	n int64
}

func (c *countingWriter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

func (c *countingWriter) pad(to int64) error {
	if over := c.n % to; over != 0 {
		_, err := c.Write(make([]byte, to-over))
		return err
	}
	return nil
}

// Read parses an archive that Write, or any other maker of "newc" archives, has written. It keeps what an
// Entry has room for and drops the rest. It fails on anything malformed, and on an archive without its end.
func Read(r io.Reader) ([]Entry, error) {
	cr := &countingReader{r: r}
	var entries []Entry
	for {
		e, err := readEntry(cr)
		if err != nil {
			return nil, fmt.Errorf("cpio entry %d: %w", len(entries)+1, err)
		}
		if e.Name == trailer {
			return entries, nil
		}
		entries = append(entries, e)
	}
}

func readEntry(r *countingReader) (Entry, error) {
	header, err := r.take(int64(headerSize))
	if err != nil {
		return Entry{}, err
	}
	if string(header[:len(magic)]) != magic {
		return Entry{}, fmt.Errorf("magic is %q, not %q", header[:len(magic)], magic)
	}
	var fields [13]uint32
	for i := range fields {
		at := len(magic) + i*8
		v, err := strconv.ParseUint(string(header[at:at+8]), 16, 32)
		if err != nil {
			return Entry{}, fmt.Errorf("header field %d: %w", i, err)
		}
		fields[i] = uint32(v)
	}
	nameSize, dataSize := int64(fields[11]), int64(fields[6])
	if nameSize < 2 || nameSize > maxName || dataSize > maxData {
		return Entry{}, fmt.Errorf("name of %d bytes or content of %d is out of bounds", nameSize, dataSize)
	}
	name, err := r.take(nameSize)
	if err != nil {
		return Entry{}, err
	}
	if i := bytes.IndexByte(name, 0); i != len(name)-1 {
		return Entry{}, errors.New("name does not end where its size says")
	}
	if err := r.skipPad(4); err != nil {
		return Entry{}, err
	}
	data, err := r.take(dataSize)
	if err != nil {
		return Entry{}, err
	}
	e := Entry{Name: string(name[:len(name)-1]), Mode: fields[1], Data: data, Major: fields[9], Minor: fields[10]}
	return e, r.skipPad(4)
}

// countingReader knows how much was read, and so how much padding follows.
type countingReader struct {
	r io.Reader
	n int64
}

// take reads n bytes. It grows with what is really there, so that a forged size costs no memory.
func (c *countingReader) take(n int64) ([]byte, error) {
	if n == 0 {
		return nil, nil
	}
	var b bytes.Buffer
	got, err := io.CopyN(&b, c.r, n)
	c.n += got
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return b.Bytes(), err
}

func (c *countingReader) skipPad(to int64) error {
	if over := c.n % to; over != 0 {
		_, err := c.take(to - over)
		return err
	}
	return nil
}
