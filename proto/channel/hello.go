package channel

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
)

const (
	version    = 2
	nonceSize  = 16
	helloSize  = 32
	headerSize = 16
)

// helloMagic opens the handshake. It holds bytes that no text has, so that a
// console's or a shell's output cannot be taken for it.
var helloMagic = [8]byte{0xfe, 'h', 'y', 'p', 'e', 'r', 0x00, 0xff}

// What a hello asks for.
const (
	// begin asks for a session, which follows the answer.
	begin = 0
	// probe asks whether the guest is fit for containers: it answers once it is,
	// and waits for the next hello.
	probe = 1
)

// hello is the handshake's only frame: helloSize bytes, magic (8), version (2,
// big endian), nonce (16), kind (1), zeros (5). Its answer is the same frame.
type hello struct {
	nonce [nonceSize]byte
	kind  byte
}

func (h hello) encode() []byte {
	frame := make([]byte, helloSize)
	copy(frame, helloMagic[:])
	binary.BigEndian.PutUint16(frame[8:], version)
	copy(frame[10:], h.nonce[:])
	frame[10+nonceSize] = h.kind
	return frame
}

// readHello reads up to the end of the first hello in r, and not a byte more. It
// gives up after limit bytes that are none.
func readHello(r io.Reader, limit int) (hello, error) {
	frame := make([]byte, helloSize)
	have := 0
	for skipped := 0; ; {
		n, err := io.ReadFull(r, frame[have:])
		have += n
		if err != nil {
			return hello{}, fmt.Errorf("waiting for a hello: %w", err)
		}
		if bytes.HasPrefix(frame, helloMagic[:]) {
			break
		}
		drop := nextMagic(frame)
		if skipped += drop; skipped > limit {
			return hello{}, fmt.Errorf("no hello in the first %d bytes", skipped)
		}
		have = copy(frame, frame[drop:])
	}
	if v := binary.BigEndian.Uint16(frame[8:]); v != version {
		return hello{}, fmt.Errorf("the peer speaks version %d of the channel, this side %d: the guest image and the shim are of different builds", v, version)
	}
	h := hello{kind: frame[10+nonceSize]}
	copy(h.nonce[:], frame[10:])
	if h.kind > probe {
		return hello{}, fmt.Errorf("a hello of kind %d, which is none", h.kind)
	}
	return h, nil
}

// nextMagic is the first offset above 0 at which frame may hold the beginning of
// the magic, len(frame) if there is none.
func nextMagic(frame []byte) int {
	for i := 1; i < len(frame); i++ {
		n := min(len(frame)-i, len(helloMagic))
		if bytes.Equal(frame[i:i+n], helloMagic[:n]) {
			return i
		}
	}
	return len(frame)
}
