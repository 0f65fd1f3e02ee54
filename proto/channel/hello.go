package channel

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
)

const (
	version    = 1
	nonceSize  = 16
	helloSize  = 32
	headerSize = 16
)

// helloMagic opens the handshake. It holds bytes that no text has, so that a
// console's or a shell's output cannot be taken for it.
var helloMagic = [8]byte{0xfe, 'h', 'y', 'p', 'e', 'r', 0x00, 0xff}

// hello is the handshake's only frame: helloSize bytes, magic (8), version (2,
// big endian), nonce (16), zeros (6).
type hello struct {
	nonce [nonceSize]byte
}

func (h hello) encode() []byte {
	frame := make([]byte, helloSize)
	copy(frame, helloMagic[:])
	binary.BigEndian.PutUint16(frame[8:], version)
	copy(frame[10:], h.nonce[:])
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
	var h hello
	copy(h.nonce[:], frame[10:])
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
