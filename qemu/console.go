package qemu

import (
	"io"
	"net"
	"time"

	"github.com/hyperhq/hyper/qemu/process"
)

// consoleLimit bounds what is kept of the guest's console, in bytes. With QEMU's
// own output it stays under the 8 KiB that VM.Log promises.
const consoleLimit = 5 << 10

// console keeps the end of what the guest writes to its serial console.
type console struct {
	conn net.Conn
	tail *process.Tail
	done chan struct{}
}

func newConsole(conn net.Conn) *console {
	c := &console{conn: conn, tail: process.NewTail(consoleLimit), done: make(chan struct{})}
	go func() {
		defer close(c.done)
		_, _ = io.Copy(c.tail, conn)
	}()
	return c
}

// finish reads what is left, at most until the timeout, and ends.
func (c *console) finish(timeout time.Duration) {
	_ = c.conn.SetReadDeadline(time.Now().Add(timeout))
	<-c.done
	c.conn.Close()
}
