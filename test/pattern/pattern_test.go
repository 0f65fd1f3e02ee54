package pattern

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

func TestReaderGivesNumberedLines(t *testing.T) {
	const lines = 1234
	var want strings.Builder
	for i := range lines {
		fmt.Fprintf(&want, "%015d\n", i)
	}
	for _, size := range []int{0, 1, 15, 16, 17, 160, lines*16 - 3, lines * 16} {
		if err := iotest.TestReader(NewReader(size), []byte(want.String()[:size])); err != nil {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
}

func BenchmarkReader(b *testing.B) {
	buf := bytes.NewBuffer(make([]byte, 0, 1<<20))
	b.SetBytes(1 << 20)
	for b.Loop() {
		buf.Reset()
		if _, err := io.Copy(buf, NewReader(1<<20)); err != nil {
			b.Fatal(err)
		}
	}
}
