package harness

import (
	"fmt"
	"os"
	"os/exec"
	"time"

	"golang.org/x/sys/unix"
)

// Terminal is a pseudo terminal with a command at it, as a user sits at one.
type Terminal struct {
	master *os.File
	out    *Buffer
	copied chan struct{} // closed when the last byte of output is in out
	ended  chan struct{} // closed when the command has ended and err is set
	err    error
}

// AtTerminal starts a command that has a terminal of such a size for its standard
// files, and its own session. It is killed if it still runs when the test ends.
func (c *Cell) AtTerminal(t T, width, height uint16, cmd *exec.Cmd) *Terminal {
	t.Helper()
	master, slave, err := openPTY()
	if err != nil {
		t.Fatalf("making a terminal: %v", err)
	}
	defer slave.Close()
	term := &Terminal{master: master, out: newBuffer(), copied: make(chan struct{}), ended: make(chan struct{})}
	term.Resize(t, width, height)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true, Setctty: true}
	if err := c.reaper.Start(cmd); err != nil {
		master.Close()
		t.Fatalf("starting %q at a terminal: %v", cmd.Args, err)
	}
	go func() {
		defer close(term.ended)
		term.err = c.reaper.Wait(cmd)
	}()
	go func() {
		defer close(term.copied)
		defer term.out.end()
		// Ends with an error when nobody has the other side open any more.
		_, _ = master.WriteTo(term.out)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-term.ended
		master.Close()
		<-term.copied
	})
	return term
}

// openPTY opens a new pseudo terminal's two sides.
func openPTY() (master, slave *os.File, err error) {
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("opening /dev/ptmx: %w", err)
	}
	master = os.NewFile(uintptr(fd), "/dev/ptmx")
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err != nil {
		master.Close()
		return nil, nil, err
	}
	return master, slave, nil
}

// Type types a text.
func (term *Terminal) Type(t T, text string) {
	t.Helper()
	if _, err := term.master.WriteString(text); err != nil {
		t.Fatalf("typing %q: %v; on the screen: %q", text, err, term.out.String())
	}
}

// Resize gives the terminal another size, of which the kernel tells the command.
func (term *Terminal) Resize(t T, width, height uint16) {
	t.Helper()
	raw, err := term.master.SyscallConn()
	if err == nil {
		cerr := raw.Control(func(fd uintptr) {
			err = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Col: width, Row: height})
		})
		if err == nil {
			err = cerr
		}
	}
	if err != nil {
		t.Fatalf("resizing the terminal: %v", err)
	}
}

// Expect waits until a text is on the screen after what was last expected; if the
// command ends or time runs out before, the test fails.
func (term *Terminal) Expect(t T, text string) {
	t.Helper()
	term.out.expect(t, text)
	term.out.dropThrough(text)
}

// Ended waits for the command's end, and returns how it ended and what was on the
// screen since what was last expected.
func (term *Terminal) Ended(t T) (screen string, err error) {
	t.Helper()
	select {
	case <-term.ended:
	case <-time.After(Slowly(Patience)):
		t.Fatalf("the command at the terminal has not ended; on the screen: %q", term.out.String())
	}
	<-term.copied
	return term.out.String(), term.err
}
