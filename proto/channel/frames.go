package channel

import "io"

// A yamux frame's header: version, type, flags (2), stream (4), length (4). See
// the multiplexer's own specification.
const (
	muxHeaderSize = 12
	muxTypeData   = 0
)

// ChunkSize is how many bytes to write to a stream at a time, where there are
// more: with the frame's header they are what one write to a virtio-serial port
// carries (drivers/char/virtio_console.c).
const ChunkSize = 32<<10 - muxHeaderSize

// frameWriter writes each of the multiplexer's frames at once. The multiplexer
// writes a header and its body apart; on a virtio-serial port every write is a
// round trip of the guest's CPU to its host.
type frameWriter struct {
	io.ReadWriteCloser
	frame []byte // a header whose body comes with the next write
}

func joinFrames(conn io.ReadWriteCloser) *frameWriter {
	return &frameWriter{ReadWriteCloser: conn}
}

// Write is called by the multiplexer's one sender only.
func (w *frameWriter) Write(p []byte) (int, error) {
	if len(w.frame) == 0 && awaitsBody(p) {
		w.frame = append(w.frame, p...)
		return len(p), nil
	}
	if len(w.frame) == 0 {
		return w.ReadWriteCloser.Write(p)
	}
	held := len(w.frame)
	w.frame = append(w.frame, p...)
	n, err := w.ReadWriteCloser.Write(w.frame)
	w.frame = w.frame[:0]
	return max(n-held, 0), err
}

// awaitsBody says whether p is the header of a frame that has a body.
func awaitsBody(p []byte) bool {
	return len(p) == muxHeaderSize && p[1] == muxTypeData && p[8]|p[9]|p[10]|p[11] != 0
}
