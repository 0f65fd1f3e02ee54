package agent

import (
	"io"
	"net"
	"os"
	"strconv"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func itoa(n uint32) string { return strconv.FormatUint(uint64(n), 10) }

// testInput starts an input into a pipe and returns the host's end of its
// stream and the process's end of the pipe.
func testInput(t *testing.T) (i *input, host net.Conn, theirs *os.File) {
	t.Helper()
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	if err := unix.SetNonblock(fds[1], true); err != nil {
		t.Fatal(err)
	}
	host, guest := net.Pipe()
	theirs = os.NewFile(uintptr(fds[0]), "theirs")
	t.Cleanup(func() { host.Close(); theirs.Close() })
	i = newInput(guest, os.NewFile(uintptr(fds[1]), "ours"), false)
	i.start()
	return i, host, theirs
}

func TestInputEndsWithTheStream(t *testing.T) {
	defer goleak.VerifyNone(t)
	i, host, theirs := testInput(t)
	go func() {
		io.WriteString(host, "in")
		host.Close()
	}()
	if got, err := io.ReadAll(theirs); err != nil || string(got) != "in" {
		t.Errorf("%q %v", got, err)
	}
	within(t, "ending", i.ended)
}

func TestInputEndsWithTheProcess(t *testing.T) {
	defer goleak.VerifyNone(t)
	t.Run("while it waits for the host", func(t *testing.T) {
		i, _, _ := testInput(t)
		i.close()
		i.close() // again
	})
	t.Run("while the pipe is full", func(t *testing.T) {
		i, host, _ := testInput(t)
		done := make(chan struct{})
		go func() {
			defer close(done)
			host.Write(make([]byte, 1<<20))
		}()
		i.close()
		within(t, "the host", done)
	})
	t.Run("when nobody reads the pipe any more", func(t *testing.T) {
		i, host, theirs := testInput(t)
		theirs.Close()
		host.Write([]byte("x"))
		within(t, "ending", i.ended)
		if _, err := host.Write([]byte("x")); err == nil {
			t.Error("the stream goes on without its process")
		}
	})
}
