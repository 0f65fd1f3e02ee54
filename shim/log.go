package shim

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/containerd/log"
	"golang.org/x/sys/unix"
)

// logFifo is the name of the fifo in the bundle that containerd reads.
const logFifo = "log"

// fifoLog writes lines to a fifo and never waits: when containerd is away long
// enough for the fifo to fill, lines are lost, but nothing stalls.
type fifoLog int

func (fd fifoLog) Write(p []byte) (int, error) {
	for {
		_, err := unix.Write(int(fd), p)
		switch {
		case errors.Is(err, unix.EINTR):
		case err == nil, errors.Is(err, unix.EAGAIN):
			return len(p), nil
		default:
			return 0, err
		}
	}
}

// openLog sends the log, and with it what the Go runtime says when it dies, to
// containerd. The fifo is opened for both directions: it neither waits for
// containerd now nor fails while that is away.
func openLog(id string, debug bool) error {
	if debug {
		if err := log.SetLevel("debug"); err != nil {
			return err
		}
	}
	if err := log.SetFormat(log.TextFormat); err != nil {
		return err
	}
	log.L = log.L.WithField("runtime", Name).WithField("shim", id)
	fd, err := unix.Open(logFifo, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // not started by containerd: standard error it is
	}
	if err != nil {
		return fmt.Errorf("open the log fifo: %w", err)
	}
	if err := unix.Dup3(fd, int(os.Stderr.Fd()), 0); err != nil {
		return errors.Join(fmt.Errorf("open the log fifo: %w", err), unix.Close(fd))
	}
	log.L.Logger.SetOutput(&pacedLog{out: fifoLog(fd), room: logBurst, last: time.Now()})
	return nil
}

// closeLog ends the log: what was left out of it last is told.
func closeLog() {
	if l, ok := log.L.Logger.Out.(*pacedLog); ok {
		_ = l.end() // where else to say so
	}
}
