// Package pattern makes bytes by which a lost, doubled or moved block shows: numbered
// lines. A guest that is emulated makes them quickly.
package pattern

import "io"

const lineSize = 16

// Reader gives the pattern's first bytes.
type Reader struct {
	left int
	line [lineSize]byte // the one that is read
	at   int            // how much of it was
}

// NewReader gives the first n bytes.
func NewReader(n int) *Reader {
	return &Reader{left: n, line: [lineSize]byte([]byte("000000000000000\n"))}
}

// Read implements io.Reader.
func (r *Reader) Read(b []byte) (int, error) {
	if r.left == 0 && len(b) > 0 {
		return 0, io.EOF
	}
	b = b[:min(len(b), r.left)]
	n := 0
	for n < len(b) {
		for r.at == 0 && len(b)-n >= lineSize {
			*(*[lineSize]byte)(b[n:]) = r.line
			n += lineSize
			r.count()
		}
		m := copy(b[n:], r.line[r.at:])
		n += m
		if r.at += m; r.at == lineSize {
			r.at = 0
			r.count()
		}
	}
	r.left -= n
	return n, nil
}

// count makes the line the next one.
func (r *Reader) count() {
	for i := lineSize - 2; i >= 0; i-- {
		if r.line[i] != '9' {
			r.line[i]++
			return
		}
		r.line[i] = '0'
	}
}
