package traffic

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

const (
	wordSize   = 8
	bufferSize = 64 << 10
)

// send writes n bytes, whole words, each of which is its number: a byte that is
// changed, lost, doubled or moved is found.
func send(w io.Writer, n int64) error {
	buf := make([]byte, bufferSize)
	for word := uint64(0); n > 0; {
		part := buf[:min(n, bufferSize)]
		for i := 0; i+wordSize <= len(part); i += wordSize {
			binary.LittleEndian.PutUint64(part[i:], word)
			word++
		}
		if _, err := w.Write(part); err != nil {
			return err
		}
		n -= int64(len(part))
	}
	return nil
}

// receive reads what send has written to its end, and tells how much it was.
func receive(r io.Reader) (n int64, err error) {
	buf := make([]byte, bufferSize)
	for word := uint64(0); ; {
		got, err := io.ReadFull(r, buf)
		for i := 0; i+wordSize <= got; i += wordSize {
			if found := binary.LittleEndian.Uint64(buf[i:]); found != word {
				return n, fmt.Errorf("the word at byte %d is %#x, want %#x", n+int64(i), found, word)
			}
			word++
		}
		n += int64(got)
		switch {
		case err == io.EOF || errors.Is(err, io.ErrUnexpectedEOF) && got%wordSize == 0:
			return n, nil
		case err != nil:
			return n, fmt.Errorf("after %d bytes: %w", n, err)
		}
	}
}
