package stdio

import (
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// writeParts writes all of p and reports what each system call took: how much
// of a large write a slow reader has taken is what tells slow from stuck.
func writeParts(f *os.File, p []byte, wrote func(n int)) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var werr error
	err = raw.Write(func(fd uintptr) (done bool) {
		for len(p) > 0 {
			n, err := unix.Write(int(fd), p)
			switch {
			case err == unix.EINTR:
				continue
			case err == unix.EAGAIN:
				return false
			case err != nil:
				werr = err
				return true
			case n == 0:
				werr = io.ErrShortWrite
				return true
			}
			p = p[n:]
			wrote(n)
		}
		return true
	})
	if err == nil {
		err = werr
	}
	return err
}

// interrupt makes a write to f that waits fail, and those to come. A regular
// file never waits and has no deadline.
func interrupt(f *os.File) {
	if f != nil {
		_ = f.SetWriteDeadline(time.Unix(1, 0))
	}
}
