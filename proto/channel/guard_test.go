package channel

import (
	"encoding/binary"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// muxFrame is a frame of the multiplexer's, with a body if it is of data.
func muxFrame(kind byte, flags uint16, length uint32) []byte {
	frame := make([]byte, muxHeaderSize)
	frame[1] = kind
	binary.BigEndian.PutUint16(frame[2:], flags)
	binary.BigEndian.PutUint32(frame[4:], 1)
	binary.BigEndian.PutUint32(frame[8:], length)
	if kind == muxTypeData {
		frame = append(frame, make([]byte, length)...)
	}
	return frame
}

func TestAGuestThatPingsEndsTheSession(t *testing.T) {
	hostEnd, guestEnd := socketPair(t)
	defer guestEnd.Close()
	host, err := hostSession(hostEnd, config())
	if err != nil {
		t.Fatal(err)
	}
	defer host.Close()
	for range 1000 { // and reads no answer
		if _, err := guestEnd.Write(muxFrame(muxTypePing, muxFlagOpen, 7)); err != nil {
			break // the host has hung up
		}
	}
	select {
	case <-host.Done():
	case <-time.After(10 * time.Second):
		t.Error("the session goes on")
	}
	if err := host.Err(); err == nil || !strings.Contains(err.Error(), "frame") {
		t.Errorf("it has ended for %v", err)
	}
}

func TestStreamsThatAGuestLeavesOpenAreBounded(t *testing.T) {
	host := sessions(t, func(_ Header, conn net.Conn) {
		conn.Write([]byte("x"))
		io.Copy(io.Discard, conn) // to the host's end, and no end of ours
	})
	for n := range maxStreams + 1 {
		conn, err := host.Open(t.Context(), Header{Stdio, uint64(n)})
		if err != nil {
			if n != maxStreams {
				t.Errorf("stream %d: %v", n, err)
			}
			return
		}
		// The guest has taken it, so that this is not what bounds them.
		if _, err := conn.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		conn.Close()
	}
	t.Error("there is no end to them")
}

// FuzzGuard has the frames of a guest come in pieces.
func FuzzGuard(f *testing.F) {
	f.Add(append(muxFrame(muxTypeData, 0, 3), muxFrame(1, 4, 9)...), uint8(5))
	f.Add(append(muxFrame(muxTypeData, 2, 0), muxFrame(muxTypePing, 2, 0)...), uint8(1))
	f.Add(append(muxFrame(muxTypeData, 0, 1<<16), muxFrame(1, muxFlagOpen, 0)...), uint8(12))
	f.Add([]byte{0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff, 0, 2}, uint8(13))
	f.Fuzz(func(t *testing.T, data []byte, size uint8) {
		var whole, parts guard
		want := whole.look(data)
		var got error
		for rest := data; len(rest) > 0 && got == nil; {
			n := min(int(size)+1, len(rest))
			got = parts.look(rest[:n])
			rest = rest[n:]
		}
		if (want == nil) != (got == nil) {
			t.Fatalf("at once %v, in pieces of %d %v", want, int(size)+1, got)
		}
		if len(whole.head) > muxHeaderSize || want == nil && (whole.body != parts.body || string(whole.head) != string(parts.head)) {
			t.Fatalf("at once %x and %d, in pieces %x and %d", whole.head, whole.body, parts.head, parts.body)
		}
	})
}
