package agent

import (
	"io"
	"os"
	"time"
)

// inStream is the stream that input comes from; net.Conn has it all.
type inStream interface {
	io.ReadCloser
	SetReadDeadline(time.Time) error
}

// input copies a stream to a process's standard input. The end of the stream
// is the end of a pipe, while a terminal merely gets no more.
type input struct {
	src   inStream
	dst   *os.File
	tty   bool
	ended chan struct{}
}

// newInput takes over src and dst, except that a terminal stays its output's to
// close. start must follow.
func newInput(src inStream, dst *os.File, tty bool) *input {
	return &input{src: src, dst: dst, tty: tty, ended: make(chan struct{})}
}

func (i *input) start() { go i.run() }

func (i *input) run() {
	defer close(i.ended)
	defer i.src.Close()
	if !i.tty {
		defer i.dst.Close()
	}
	// Either the stream's end, or nobody reads any more: the end in any case.
	_, _ = io.CopyBuffer(onlyWriter{i.dst}, onlyReader{i.src}, make([]byte, copySize))
}

// close ends the copying that was started, as the end of the process does, and
// returns when it has ended. Closing a stream does not wake its reader: only its
// deadline does.
func (i *input) close() {
	past := time.Unix(1, 0)
	_ = i.src.SetReadDeadline(past)
	_ = i.dst.SetWriteDeadline(past)
	<-i.ended
}

// abandon closes both ends of an input that was never started.
func (i *input) abandon() {
	i.src.Close()
	i.dst.Close()
}

// onlyReader and onlyWriter hide the shortcuts that io.Copy would take, which
// bring their own buffers.
type onlyReader struct{ io.Reader }
type onlyWriter struct{ io.Writer }
