package channel

import (
	"encoding/binary"
	"fmt"
	"net"
)

const (
	muxTypePing = 2
	// muxFlagOpen is of the frame that opens a stream, and of a ping that wants an answer.
	muxFlagOpen = 1
)

// guard ends a session whose guest sends frames that ask for something. No guest has to:
// streams are the host's alone to open, each would hold a window of bytes that nobody
// reads, and to answer a ping the multiplexer begins a goroutine, which stays for as long
// as the guest reads nothing.
type guard struct {
	net.Conn
	reason *reason
	head   []byte // of a frame, as far as it has been read
	body   uint32 // what is left of a frame's, in bytes
}

func (g *guard) Read(p []byte) (int, error) {
	n, err := g.Conn.Read(p)
	if bad := g.look(p[:n]); bad != nil {
		g.reason.set(bad)
		return 0, bad
	}
	return n, err
}

// look follows the frames through what was read.
func (g *guard) look(p []byte) error {
	for len(p) > 0 {
		if g.body > 0 {
			n := min(uint64(g.body), uint64(len(p)))
			g.body -= uint32(n)
			p = p[n:]
			continue
		}
		n := min(muxHeaderSize-len(g.head), len(p))
		g.head = append(g.head, p[:n]...)
		p = p[n:]
		if len(g.head) < muxHeaderSize {
			return nil
		}
		if err := g.begin(); err != nil {
			return err
		}
	}
	return nil
}

// begin begins a frame whose header is there.
func (g *guard) begin() error {
	kind, flags := g.head[1], binary.BigEndian.Uint16(g.head[2:])
	if kind == muxTypePing || flags&muxFlagOpen != 0 {
		return fmt.Errorf("it sent a frame of type %d with flags %#x, which only the host may", kind, flags)
	}
	if kind == muxTypeData {
		g.body = binary.BigEndian.Uint32(g.head[8:])
	}
	g.head = g.head[:0]
	return nil
}
