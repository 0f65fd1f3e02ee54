package channel

import (
	"bytes"
	"io"
	"testing"
)

// countedWrites is a connection that keeps apart what each write brought.
type countedWrites struct {
	io.ReadWriteCloser
	writes [][]byte
}

func (c *countedWrites) Write(p []byte) (int, error) {
	c.writes = append(c.writes, bytes.Clone(p))
	return len(p), nil
}

func TestAFrameIsOneWrite(t *testing.T) {
	header := func(kind, length byte) []byte { return []byte{0, kind, 0, 0, 0, 0, 0, 1, 0, 0, 0, length} }
	body := []byte("twelve bytes")
	for _, part := range []struct {
		writes [][]byte
		want   [][]byte
	}{
		{[][]byte{header(0, 5), []byte("hello")}, [][]byte{append(header(0, 5), "hello"...)}},
		{[][]byte{header(1, 9), header(0, 0)}, [][]byte{header(1, 9), header(0, 0)}},
		// A body that looks like a header is none.
		{[][]byte{header(0, 12), header(0, 12), header(0, 12), body}, [][]byte{append(header(0, 12), header(0, 12)...), append(header(0, 12), body...)}},
	} {
		conn := &countedWrites{}
		w := joinFrames(conn)
		for _, p := range part.writes {
			if n, err := w.Write(p); n != len(p) || err != nil {
				t.Errorf("wrote %d of %d: %v", n, len(p), err)
			}
		}
		if !equalWrites(conn.writes, part.want) {
			t.Errorf("got %q, want %q", conn.writes, part.want)
		}
	}
}

func equalWrites(a, b [][]byte) bool {
	return bytes.Equal(bytes.Join(a, []byte("|")), bytes.Join(b, []byte("|")))
}
