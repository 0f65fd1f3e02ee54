package channel

import (
	"bytes"
	"testing"
)

func FuzzReadHello(f *testing.F) {
	good := hello{nonce: [16]byte{1, 2, 3}}.encode()
	f.Add(good)
	f.Add(hello{nonce: [16]byte{4}, kind: probe}.encode())
	f.Add(append([]byte{0xfe, 'h', 'y'}, good...))
	f.Add(bytes.Repeat([]byte{0xfe}, 100))
	f.Add(good[:20])
	f.Fuzz(func(t *testing.T, data []byte) {
		r := bytes.NewReader(data)
		h, err := readHello(r, 1<<16)
		if err != nil {
			return
		}
		used := data[:len(data)-r.Len()]
		if !bytes.HasSuffix(used[:len(used)-5], h.encode()[:helloSize-5]) || h.kind > probe {
			t.Fatalf("read %x as the end of %x", h.encode(), used)
		}
		if i := bytes.Index(used, helloMagic[:]); i != len(used)-helloSize {
			t.Fatalf("took the magic at %d for one at %d", i, len(used)-helloSize)
		}
	})
}

func FuzzReadHeader(f *testing.F) {
	f.Add(Header{Control, 0}.encode())
	f.Add(Header{Stdio, 1 << 63}.encode())
	f.Add(Header{Socket, 1}.encode())
	f.Add([]byte("hstr"))
	f.Fuzz(func(t *testing.T, data []byte) {
		h, err := readHeader(bytes.NewReader(data))
		if err == nil && !bytes.Equal(h.encode(), data[:headerSize]) {
			t.Fatalf("%+v from %x", h, data[:headerSize])
		}
	})
}
