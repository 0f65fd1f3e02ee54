package agent

import (
	"bytes"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// testPipe is a pipe whose reading end is as the agent's.
func testPipe(t *testing.T) (ours, theirs *os.File) {
	t.Helper()
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	if err := unix.SetNonblock(fds[0], true); err != nil {
		t.Fatal(err)
	}
	ours, theirs = os.NewFile(uintptr(fds[0]), "ours"), os.NewFile(uintptr(fds[1]), "theirs")
	t.Cleanup(func() { ours.Close(); theirs.Close() })
	return ours, theirs
}

// testOutputOf starts an output and returns it with the host's end of its stream.
func testOutputOf(t *testing.T, src *os.File, tty bool) (*output, net.Conn) {
	t.Helper()
	host, guest := net.Pipe()
	o, err := newOutput(src, guest, tty)
	if err != nil {
		t.Fatal(err)
	}
	o.start()
	t.Cleanup(func() { host.Close() })
	return o, host
}

func within(t *testing.T, what string, done <-chan struct{}) {
	t.Helper()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Fatalf("%s takes too long", what)
	}
}

func mustWrite(t *testing.T, w io.Writer, s string) {
	t.Helper()
	if _, err := io.WriteString(w, s); err != nil {
		t.Fatal(err)
	}
}

func TestOutputSettlesWithWhatTheProcessLeftInThePipe(t *testing.T) {
	defer goleak.VerifyNone(t)
	ours, theirs := testPipe(t)
	left := bytes.Repeat([]byte("x"), 60000)
	mustWrite(t, theirs, string(left))
	o, host := testOutputOf(t, ours, false)
	o.exited()
	got := make([]byte, len(left))
	if _, err := io.ReadFull(host, got); err != nil || !bytes.Equal(got, left) {
		t.Fatalf("the output is not what was written: %v", err)
	}
	within(t, "settling", o.settled)
	if o.count != uint64(len(left)) {
		t.Errorf("counted %d", o.count)
	}
	// A child still holds the pipe: what it writes comes, uncounted, until it ends.
	mustWrite(t, theirs, "child")
	if _, err := io.ReadFull(host, got[:5]); err != nil || string(got[:5]) != "child" {
		t.Errorf("%q %v", got[:5], err)
	}
	theirs.Close()
	if _, err := host.Read(got); err != io.EOF {
		t.Errorf("want the end, got %v", err)
	}
	within(t, "ending", o.ended)
	if o.count != uint64(len(left)) {
		t.Errorf("the count changed to %d", o.count)
	}
}

func TestOutputSettlesBesideAChildThatWritesForever(t *testing.T) {
	defer goleak.VerifyNone(t)
	ours, theirs := testPipe(t)
	o, host := testOutputOf(t, ours, false)
	wrote := make(chan struct{})
	go func() {
		defer close(wrote)
		for {
			if _, err := theirs.Write(make([]byte, 4096)); err != nil {
				return
			}
		}
	}()
	read := make(chan struct{})
	go func() {
		defer close(read)
		io.Copy(io.Discard, host)
	}()
	o.exited()
	within(t, "settling", o.settled)
	o.close()
	within(t, "the writer", wrote)
	within(t, "the reader", read)
}

func TestOutputSettlesAtTheEndOfThePipe(t *testing.T) {
	defer goleak.VerifyNone(t)
	ours, theirs := testPipe(t)
	o, host := testOutputOf(t, ours, false)
	mustWrite(t, theirs, "all")
	theirs.Close()
	if got, err := io.ReadAll(host); err != nil || string(got) != "all" {
		t.Errorf("%q %v", got, err)
	}
	within(t, "settling", o.settled)
	o.exited()
	within(t, "ending", o.ended)
	if o.count != 3 {
		t.Errorf("counted %d", o.count)
	}
}

func TestOutputIsDroppedOnceTheHostIsGone(t *testing.T) {
	defer goleak.VerifyNone(t)
	ours, theirs := testPipe(t)
	o, host := testOutputOf(t, ours, false)
	host.Close()
	// More than any buffer holds: a process must not hang.
	mustWrite(t, theirs, string(make([]byte, 1<<20)))
	theirs.Close()
	within(t, "ending", o.ended)
	if o.count != 0 {
		t.Errorf("counted %d bytes that nobody got", o.count)
	}
}

func TestOutputCloseDoesNotWaitForTheHost(t *testing.T) {
	defer goleak.VerifyNone(t)
	ours, theirs := testPipe(t)
	o, _ := testOutputOf(t, ours, false)
	mustWrite(t, theirs, "nobody reads this")
	o.exited()
	select {
	case <-o.settled:
		t.Error("settled though the host has not read")
	case <-time.After(50 * time.Millisecond):
	}
	o.close()
	within(t, "settling", o.settled)
}

// A terminal keeps what was written where it cannot be seen at once.
func TestOutputOfATerminal(t *testing.T) {
	defer goleak.VerifyNone(t)
	for range 50 {
		master, slave := openPTY(t)
		o, host := testOutputOf(t, master, true)
		want := bytes.Repeat([]byte("0123456789"), 300)
		mustWrite(t, slave, string(want))
		o.exited()
		got := make([]byte, len(want))
		if _, err := io.ReadFull(host, got); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("the output is not what was written: %v", err)
		}
		within(t, "settling", o.settled)
		if o.count != uint64(len(want)) {
			t.Fatalf("counted %d of %d", o.count, len(want))
		}
		slave.Close()
		if n, err := host.Read(got); err != io.EOF {
			t.Fatalf("want the end, got %d %v", n, err)
		}
		within(t, "ending", o.ended)
		master.Close()
	}
}

// openPTY opens a raw pseudo terminal whose master is as the agent's.
func openPTY(t *testing.T) (master, slave *os.File) {
	t.Helper()
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Skipf("no pseudo terminals here: %v", err)
	}
	master = os.NewFile(uintptr(fd), "master")
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetUint32(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	slave, err = os.OpenFile("/dev/pts/"+itoa(n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	return master, slave
}
