package agent

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"github.com/opencontainers/runc/libcontainer"
	"golang.org/x/sys/unix"

	"github.com/containerd/errdefs"

	agentv1 "github.com/hyperhq/hyper/proto/hyper/agent/v1"
)

// stdio is one process's standard files.
//
//	claimed ──attach──▶ attached ──started──▶ copying ──close──▶ closed
//
// close may be called in any state, and again.
type stdio struct {
	terminal      bool
	width, height uint16
	// The streams, nil where the process has none. A copier takes its stream over.
	stdin, stdout, stderr net.Conn

	theirs  []*os.File // the process's ends, closed here once it has them
	console *os.File   // our end of the socket that brings the terminal
	master  *os.File   // the terminal

	in      *input
	outs    [2]*output // stdout, stderr; nil where there is none
	copying bool
}

// maxTerminalSize is what fits into a struct winsize.
const maxTerminalSize = 1<<16 - 1

// claimStdio takes the process's streams from those that the host has opened.
func claimStdio(ctx context.Context, from *streams, want *agentv1.Streams) (s *stdio, err error) {
	if want.GetTerminal() && want.GetStderr() != 0 {
		return nil, fmt.Errorf("a terminal has no stderr of its own: %w", errdefs.ErrInvalidArgument)
	}
	if want.GetWidth() > maxTerminalSize || want.GetHeight() > maxTerminalSize {
		return nil, fmt.Errorf("terminal of %d by %d: at most %d: %w", want.GetWidth(), want.GetHeight(), maxTerminalSize, errdefs.ErrInvalidArgument)
	}
	s = &stdio{terminal: want.GetTerminal(), width: uint16(want.GetWidth()), height: uint16(want.GetHeight())}
	for _, c := range []struct {
		id   uint64
		conn *net.Conn
	}{{want.GetStdin(), &s.stdin}, {want.GetStdout(), &s.stdout}, {want.GetStderr(), &s.stderr}} {
		if c.id == 0 {
			continue
		}
		if *c.conn, err = from.claim(ctx, c.id); err != nil {
			s.close()
			return nil, err
		}
	}
	return s, nil
}

// attach gives p its standard files, owned by uid and gid. What has no stream
// is /dev/null.
func (s *stdio) attach(p *libcontainer.Process, uid, gid int) error {
	if s.terminal {
		return s.attachConsole(p)
	}
	if s.stdin != nil {
		ours, theirs, err := s.pipe(uid, gid, false)
		if err != nil {
			return err
		}
		p.Stdin = theirs
		s.in, s.stdin = newInput(s.stdin, ours, false), nil
	}
	for i, c := range []struct {
		conn *net.Conn
		file *io.Writer
	}{{&s.stdout, &p.Stdout}, {&s.stderr, &p.Stderr}} {
		if *c.conn == nil {
			continue
		}
		ours, theirs, err := s.pipe(uid, gid, true)
		if err != nil {
			return err
		}
		*c.file = theirs
		if s.outs[i], err = newOutput(ours, *c.conn, false); err != nil {
			ours.Close()
			return err
		}
		*c.conn = nil
	}
	return nil
}

// pipe makes a pipe that the process writes into, or else reads from. Only our
// end is non-blocking: programs do not expect that of theirs.
func (s *stdio) pipe(uid, gid int, writes bool) (ours, theirs *os.File, err error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return nil, nil, fmt.Errorf("making a pipe: %w", err)
	}
	our, their := fds[1], fds[0]
	if writes {
		our, their = fds[0], fds[1]
	}
	err = unix.SetNonblock(our, true)
	if err == nil {
		err = unix.Fchown(their, uid, gid)
	}
	if err != nil {
		unix.Close(our)
		unix.Close(their)
		return nil, nil, fmt.Errorf("preparing a pipe: %w", err)
	}
	theirs = os.NewFile(uintptr(their), "stdio")
	s.theirs = append(s.theirs, theirs)
	return os.NewFile(uintptr(our), "stdio"), theirs, nil
}

// attachConsole has p make a terminal of its own, and send it here.
func (s *stdio) attachConsole(p *libcontainer.Process) error {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("making the console's socket: %w", err)
	}
	s.console = os.NewFile(uintptr(fds[0]), "console")
	p.ConsoleSocket = os.NewFile(uintptr(fds[1]), "console")
	s.theirs = append(s.theirs, p.ConsoleSocket)
	p.ConsoleWidth, p.ConsoleHeight = s.width, s.height
	return nil
}

// started begins to copy, once the process has its files. It takes the terminal.
func (s *stdio) started() error {
	s.closeTheirs()
	if s.console != nil {
		if err := s.takeTerminal(); err != nil {
			return err
		}
	}
	s.copying = true
	if s.in != nil {
		s.in.start()
	}
	for _, o := range s.outs {
		if o != nil {
			o.start()
		}
	}
	return nil
}

func (s *stdio) takeTerminal() error {
	master, err := receiveFile(s.console)
	s.console.Close()
	s.console = nil
	if err != nil {
		return fmt.Errorf("receiving the terminal: %w", err)
	}
	s.master = master
	if s.stdin != nil {
		s.in, s.stdin = newInput(s.stdin, master, true), nil
	}
	dst := outStream(discard{})
	if s.stdout != nil {
		dst, s.stdout = s.stdout, nil
	}
	s.outs[0], err = newOutput(master, dst, true)
	return err
}

// exited tells that the process has ended: its output is settled soon, and
// nothing more goes in.
func (s *stdio) exited() {
	if !s.copying {
		return // it failed to start
	}
	for _, o := range s.outs {
		if o != nil {
			o.exited()
		}
	}
	if s.in != nil {
		s.in.close()
	}
}

// wait waits until the output of a process that has exited is settled, and
// returns the bytes sent on stdout and stderr.
func (s *stdio) wait(ctx context.Context) (sent [2]uint64, err error) {
	for i, o := range s.outs {
		if o == nil || !s.copying {
			continue
		}
		select {
		case <-o.settled:
			sent[i] = o.count
		case <-ctx.Done():
			return sent, ctx.Err()
		}
	}
	return sent, nil
}

// resize sets the terminal's size in characters.
func (s *stdio) resize(width, height uint16) error {
	if s.master == nil {
		return fmt.Errorf("the process has no terminal: %w", errdefs.ErrFailedPrecondition)
	}
	raw, err := s.master.SyscallConn()
	if err != nil {
		return fmt.Errorf("resizing the terminal: %w", err)
	}
	cerr := raw.Control(func(fd uintptr) {
		err = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: height, Col: width})
	})
	if cerr != nil || err != nil {
		return fmt.Errorf("resizing the terminal: %w", firstError(cerr, err))
	}
	return nil
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *stdio) closeTheirs() {
	for _, f := range s.theirs {
		f.Close()
	}
	s.theirs = nil
}

// close ends all copying and closes all that is open. The process must have
// exited, or never have been started.
func (s *stdio) close() {
	s.closeTheirs()
	if s.console != nil {
		s.console.Close()
	}
	for _, conn := range []net.Conn{s.stdin, s.stdout, s.stderr} {
		if conn != nil {
			conn.Close()
		}
	}
	if s.in != nil && s.copying {
		s.in.close()
	} else if s.in != nil {
		s.in.abandon()
	}
	for _, o := range s.outs {
		if o != nil && s.copying {
			o.close()
		} else if o != nil {
			o.abandon()
		}
	}
	if s.master != nil {
		s.master.Close()
	}
}

// discard is the stream of a terminal whose output nobody wants. It must still
// be read, or the process would block.
type discard struct{}

func (discard) Read([]byte) (int, error)         { return 0, os.ErrDeadlineExceeded }
func (discard) Write(p []byte) (int, error)      { return len(p), nil }
func (discard) Close() error                     { return nil }
func (discard) SetReadDeadline(time.Time) error  { return nil }
func (discard) SetWriteDeadline(time.Time) error { return nil }
