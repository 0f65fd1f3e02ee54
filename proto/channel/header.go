package channel

import (
	"encoding/binary"
	"fmt"
	"io"
)

// Kind says what a stream carries.
type Kind uint8

const (
	// Control is the ttrpc stream of the agent's API.
	Control Kind = 1
	// Stdio is one file descriptor of one process.
	Stdio Kind = 2
	// Forward is a TCP connection to the guest's loopback, to the port that is
	// its ID. The guest answers with a byte whether it could connect; a Conn
	// follows.
	Forward Kind = 3
	// Socket is a connection that the guest took at a unix socket of the host's,
	// and told of under the id that the stream has. A Conn follows at once.
	Socket Kind = 4
)

// Header is what the host says first on every stream it opens.
type Header struct {
	Kind Kind
	// ID tells the streams of one kind apart; the host chooses it, but
	// for a Socket.
	ID uint64
}

var headerMagic = [4]byte{'h', 's', 't', 'r'}

// encode gives headerSize bytes: magic (4), version (1), kind (1), zeros (2), id
// (8, big endian).
func (h Header) encode() []byte {
	frame := make([]byte, headerSize)
	copy(frame, headerMagic[:])
	frame[4] = version
	frame[5] = byte(h.Kind)
	binary.BigEndian.PutUint64(frame[8:], h.ID)
	return frame
}

func readHeader(r io.Reader) (Header, error) {
	frame := make([]byte, headerSize)
	if _, err := io.ReadFull(r, frame); err != nil {
		return Header{}, fmt.Errorf("reading a stream's header: %w", err)
	}
	if [4]byte(frame) != headerMagic || frame[4] != version || frame[6]|frame[7] != 0 {
		return Header{}, fmt.Errorf("not a stream header: %x", frame)
	}
	h := Header{Kind: Kind(frame[5]), ID: binary.BigEndian.Uint64(frame[8:])}
	if h.Kind < Control || h.Kind > Socket {
		return Header{}, fmt.Errorf("unknown kind of stream %d", h.Kind)
	}
	return h, nil
}
