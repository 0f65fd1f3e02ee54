package qmp

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A script is QEMU's side of a conversation: it gets each line that the client
// sends and answers with lines of its own. The driver's tests speak to a real QEMU.
func converse(t *testing.T, onEvent func(Event), script func(in *bufio.Scanner, out io.Writer)) *Client {
	t.Helper()
	ours, theirs := net.Pipe()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer theirs.Close()
		script(bufio.NewScanner(theirs), theirs)
	}()
	if onEvent == nil {
		onEvent = func(Event) {}
	}
	c := New(ours, onEvent)
	t.Cleanup(func() { c.Close(); c.Close(); <-ended })
	return c
}

func handshake(in *bufio.Scanner, out io.Writer) {
	fmt.Fprintln(out, `{"QMP": {"version": {}, "capabilities": ["oob"]}}`)
	in.Scan()
	fmt.Fprintln(out, `{"return": {}, "id": 1}`)
}

func deadline(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func TestCommands(t *testing.T) {
	var asked []string
	c := converse(t, nil, func(in *bufio.Scanner, out io.Writer) {
		handshake(in, out)
		for _, answer := range []string{
			`{"return": {"running": true, "status": "running\u0007"}, "id": 2}`,
			`{"return": {}, "id": 3}`,
			`{"id": 4, "error": {"class": "GenericError", "desc": "no"}}`,
			`{"return": {}, "id": 5}`,
		} {
			in.Scan()
			asked = append(asked, in.Text())
			fmt.Fprintln(out, answer)
		}
	})
	ctx := deadline(t, 5*time.Second)
	if s, err := c.QueryStatus(ctx); err != nil || s != (Status{Running: true, State: "running?"}) {
		t.Errorf("QueryStatus() = %+v, %v", s, err)
	}
	if err := c.Stop(ctx); err != nil {
		t.Error(err)
	}
	var refused *Error
	if err := c.Cont(ctx); !errors.As(err, &refused) || *refused != (Error{"cont", "GenericError", "no"}) {
		t.Errorf("Cont() = %v", err)
	}
	if err := c.Quit(ctx); err != nil {
		t.Error(err)
	}
	<-c.Done()
	want := `{"execute":"query-status","id":2} {"execute":"stop","id":3} {"execute":"cont","id":4} {"execute":"quit","id":5}`
	if got := strings.Join(asked, " "); got != want {
		t.Errorf("asked %s", got)
	}
	if err := c.Stop(ctx); !errdefs.IsUnavailable(err) {
		t.Errorf("Stop() afterwards = %v", err)
	}
}

func TestRepliesAreMatchedByID(t *testing.T) {
	both := make(chan struct{})
	c := converse(t, nil, func(in *bufio.Scanner, out io.Writer) {
		handshake(in, out)
		answers := map[bool]string{}
		for range 2 {
			in.Scan()
			var id int
			stop := strings.Contains(in.Text(), "stop")
			if _, err := fmt.Sscanf(in.Text()[strings.Index(in.Text(), `"id"`):], `"id":%d`, &id); err != nil {
				t.Error(err)
			}
			if stop {
				answers[stop] = fmt.Sprintf(`{"error": {"class": "c", "desc": "stop refused"}, "id": %d}`, id)
			} else {
				answers[stop] = fmt.Sprintf(`{"return": {"status": "paused"}, "id": %d}`, id)
			}
		}
		fmt.Fprintln(out, answers[false])
		fmt.Fprintln(out, answers[true])
		<-both
	})
	ctx := deadline(t, 5*time.Second)
	stopped := make(chan error)
	go func() { stopped <- c.Stop(ctx) }()
	s, err := c.QueryStatus(ctx)
	if err != nil || s.State != "paused" {
		t.Errorf("QueryStatus() = %+v, %v", s, err)
	}
	if err := <-stopped; err == nil || !strings.Contains(err.Error(), "stop refused") {
		t.Errorf("Stop() = %v", err)
	}
	close(both)
}

// TestFilesGoAlong passes files over a real socket to a QEMU that reads as a real
// one does: a byte at a time, with the file that comes with it.
func TestFilesGoAlong(t *testing.T) {
	ours, theirs := socketPair(t)
	got := make(chan string, 3)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer theirs.Close()
		fmt.Fprintln(theirs, `{"QMP": {}}`)
		for id := 1; ; id++ {
			line, text, err := readWithFile(theirs)
			if err != nil {
				return
			}
			if id > 1 {
				got <- line + text
			}
			fmt.Fprintf(theirs, `{"return": {}, "id": %d}`+"\n", id)
		}
	}()
	c := New(ours, func(Event) {})
	t.Cleanup(func() { c.Close(); <-ended })
	ctx := deadline(t, 5*time.Second)
	for _, name := range []string{"a", "b"} {
		f, err := os.Create(filepath.Join(t.TempDir(), name))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteString("in " + name); err != nil {
			t.Fatal(err)
		}
		if err := c.PassFile(ctx, name, f); err != nil {
			t.Fatal(err)
		}
		if _, err := f.Stat(); err != nil {
			t.Errorf("the file is not ours any more: %v", err)
		}
		f.Close()
	}
	if err := c.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{
		`{"execute":"getfd","arguments":{"fdname":"a"},"id":2}in a`,
		`{"execute":"getfd","arguments":{"fdname":"b"},"id":3}in b`,
		`{"execute":"stop","id":4}`,
	} {
		if line := <-got; line != want {
			t.Errorf("line %d is %s, want %s", i, line, want)
		}
	}
}

// TestFileOfAGivenUpCommand has a QEMU that does not read. The copy of the file must
// not be left open.
func TestFileOfAGivenUpCommand(t *testing.T) {
	ours, theirs := socketPair(t)
	defer theirs.Close()
	c := New(ours, func(Event) {})
	fmt.Fprintln(theirs, `{"QMP": {}}`)
	if _, _, err := readWithFile(theirs); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(theirs, `{"return": {}, "id": 1}`)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for range 3 {
		if err := c.PassFile(deadline(t, 30*time.Millisecond), "a", w); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("PassFile() = %v", err)
		}
	}
	w.Close()
	c.Close()
	theirs.Close() // with what was sent
	if err := r.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("the pipe is still open: %v", err)
	}
}

func TestFileWithoutASocket(t *testing.T) {
	c := converse(t, nil, func(in *bufio.Scanner, out io.Writer) {
		handshake(in, out)
		for in.Scan() {
		}
	})
	if err := c.PassFile(deadline(t, 5*time.Second), "a", os.Stdin); !errdefs.IsUnavailable(err) {
		t.Errorf("PassFile() = %v", err)
	}
}

func socketPair(t *testing.T) (ours, theirs *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	for i, end := range []**net.UnixConn{&ours, &theirs} {
		f := os.NewFile(uintptr(fds[i]), "monitor")
		conn, err := net.FileConn(f)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		*end = conn.(*net.UnixConn)
	}
	return ours, theirs
}

// readWithFile reads a line, and what is in the file that came with it.
func readWithFile(conn *net.UnixConn) (line, text string, err error) {
	oob := make([]byte, 64)
	for b := make([]byte, 1); b[0] != '\n'; line += string(b) {
		n, oobn, _, _, err := conn.ReadMsgUnix(b, oob)
		if n == 0 || err != nil {
			return "", "", errors.Join(err, io.ErrUnexpectedEOF)
		}
		messages, err := unix.ParseSocketControlMessage(oob[:oobn])
		if err != nil {
			return "", "", err
		}
		for _, m := range messages {
			fds, err := unix.ParseUnixRights(&m)
			if err != nil {
				return "", "", err
			}
			f := os.NewFile(uintptr(fds[0]), "passed")
			data, err := io.ReadAll(io.NewSectionReader(f, 0, 100))
			f.Close()
			if err != nil {
				return "", "", err
			}
			text += string(data)
		}
	}
	return strings.TrimSpace(line), text, nil
}

func TestDevices(t *testing.T) {
	var asked []string
	c := converse(t, nil, func(in *bufio.Scanner, out io.Writer) {
		handshake(in, out)
		for id := 2; in.Scan(); id++ {
			asked = append(asked, in.Text())
			if id == 10 {
				fmt.Fprintf(out, `{"error": {"class": "DeviceNotFound", "desc": "no"}, "id": %d}`+"\n", id)
				return
			}
			fmt.Fprintf(out, `{"return": {}, "id": %d}`+"\n", id)
		}
	})
	ctx := deadline(t, 5*time.Second)
	for _, err := range []error{
		c.AddTap(ctx, "n", []string{"a", "b"}, []string{"c", "d"}),
		c.AddTap(ctx, "m", []string{"a"}, nil),
		c.AddDevice(ctx, map[string]any{"driver": "d", "id": "n"}),
		c.DelNetdev(ctx, "n"),
		c.CloseFile(ctx, "a"),
		c.AddBlock(ctx, Block{Node: "n", Files: 3, Device: true, ReadOnly: true}),
		c.DelBlock(ctx, "n"),
		c.RemoveFile(ctx, 3),
	} {
		if err != nil {
			t.Error(err)
		}
	}
	if err := c.DelDevice(ctx, "n"); !IsNotFound(err) {
		t.Errorf("DelDevice() = %v", err)
	}
	<-c.Done()
	want := []string{
		`{"execute":"netdev_add","arguments":{"type":"tap","id":"n","fds":"a:b","vhost":true,"vhostfds":"c:d"},"id":2}`,
		`{"execute":"netdev_add","arguments":{"type":"tap","id":"m","fds":"a","vhost":false},"id":3}`,
		`{"execute":"device_add","arguments":{"driver":"d","id":"n"},"id":4}`,
		`{"execute":"netdev_del","arguments":{"id":"n"},"id":5}`,
		`{"execute":"closefd","arguments":{"fdname":"a"},"id":6}`,
		`{"execute":"blockdev-add","arguments":{"node-name":"n","driver":"raw","read-only":true,"discard":"unmap",` +
			`"file":{"driver":"host_device","filename":"/dev/fdset/3"}},"id":7}`,
		`{"execute":"blockdev-del","arguments":{"node-name":"n"},"id":8}`,
		`{"execute":"remove-fd","arguments":{"fdset-id":3},"id":9}`,
		`{"execute":"device_del","arguments":{"id":"n"},"id":10}`,
	}
	if !slices.Equal(asked, want) {
		t.Errorf("asked\n%s", strings.Join(asked, "\n"))
	}
}

// FuzzDeletedDevice: a guest makes QEMU say that a device is gone.
func FuzzDeletedDevice(f *testing.F) {
	f.Add("DEVICE_DELETED", []byte(`{"device": "nic-a", "path": "/machine/peripheral/nic-a"}`))
	f.Add("DEVICE_DELETED", []byte(`{"path": "/machine/peripheral/nic-a/virtio-backend"}`))
	f.Add("DEVICE_DELETED", []byte(`{"device": 7}`))
	f.Add("STOP", []byte(`{"device": "nic-a"}`))
	f.Fuzz(func(t *testing.T, name string, data []byte) {
		got := DeletedDevice(Event{Name: name, Data: data})
		if got != "" && (name != "DEVICE_DELETED" || len(got) > 3*len(data)) {
			t.Errorf("%s %q says that %q is gone", name, data, got)
		}
	})
}

func TestEventsComeInOrder(t *testing.T) {
	var got []string
	c := converse(t, func(e Event) { got = append(got, e.Name+string(e.Data)) }, func(in *bufio.Scanner, out io.Writer) {
		handshake(in, out)
		fmt.Fprintln(out, `{"event": "STOP"}`)
		fmt.Fprintln(out, `{"event": "SHUTDOWN", "data": {"guest":true}, "timestamp": {"seconds": 1}}`)
	})
	<-c.Done()
	if fmt.Sprint(got) != `[STOP SHUTDOWN{"guest":true}]` {
		t.Errorf("got %q", got)
	}
}

func TestGivingUp(t *testing.T) {
	for name, script := range map[string]func(in *bufio.Scanner, out io.Writer, end <-chan struct{}){
		"no greeting": func(_ *bufio.Scanner, _ io.Writer, end <-chan struct{}) { <-end },
		"no answer": func(in *bufio.Scanner, out io.Writer, _ <-chan struct{}) {
			handshake(in, out)
			for in.Scan() {
			}
		},
		"not reading": func(in *bufio.Scanner, out io.Writer, end <-chan struct{}) {
			handshake(in, out)
			<-end
		},
	} {
		t.Run(name, func(t *testing.T) {
			end := make(chan struct{})
			c := converse(t, nil, func(in *bufio.Scanner, out io.Writer) { script(in, out, end) })
			t.Cleanup(func() { close(end) })
			for range 3 {
				if err := c.Stop(deadline(t, 30*time.Millisecond)); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("Stop() = %v", err)
				}
			}
			c.Close()
		})
	}
}

func TestNonsenseEndsTheConnection(t *testing.T) {
	for name, line := range map[string]string{
		"not JSON":         "hello",
		"second greeting":  `{"QMP": {}}`,
		"unknown kind":     `{"id": 2}`,
		"reply with no id": `{"return": {}}`,
		"error with no id": `{"error": {"desc": "JSON parse error"}}`,
		"string id":        `{"return": {}, "id": "2"}`,
		"too long":         `{"event": "` + strings.Repeat("x", maxLine) + `"}`,
	} {
		t.Run(name, func(t *testing.T) {
			c := converse(t, nil, func(in *bufio.Scanner, out io.Writer) {
				handshake(in, out)
				in.Scan()
				fmt.Fprintln(out, line)
				for in.Scan() {
				}
			})
			if err := c.Stop(deadline(t, 5*time.Second)); !errdefs.IsUnavailable(err) {
				t.Errorf("Stop() = %v", err)
			}
		})
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}}, "capabilities": ["oob"]}}`))
	f.Add([]byte(`{"return": {"status": "running", "running": true}, "id": 2}`))
	f.Add([]byte(`{"id": 3, "error": {"class": "CommandNotFound", "desc": "The command x has not been found"}}`))
	f.Add([]byte(`{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "SHUTDOWN", "data": {"guest": true}}`))
	f.Add([]byte(`{"return": null, "id": -1}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		m, err := decode(line)
		if err != nil {
			return
		}
		kinds := 0
		for _, is := range []bool{m.greeting, m.event != nil, m.result != nil, m.failure != nil} {
			if is {
				kinds++
			}
		}
		if kinds != 1 {
			t.Errorf("%q is of %d kinds: %+v", line, kinds, m)
		}
		if m.failure != nil && len(m.failure.Error()) > 3*maxText {
			t.Errorf("an error of %d bytes", len(m.failure.Error()))
		}
	})
}

// FuzzConversation feeds a whole connection from QEMU: it must end with it.
func FuzzConversation(f *testing.F) {
	f.Add([]byte("{\"QMP\": {}}\n{\"return\": {}, \"id\": 1}\n{\"return\": {}, \"id\": 2}\n"))
	f.Add([]byte("{\"QMP\": {}}\n{\"QMP\": {}}\n"))
	f.Add([]byte("\n\n{}"))
	f.Fuzz(func(t *testing.T, said []byte) {
		ours, theirs := net.Pipe()
		c := New(ours, func(Event) {})
		drained := make(chan struct{})
		go func() { defer close(drained); _, _ = io.Copy(io.Discard, theirs) }()
		_, _ = theirs.Write(said)
		theirs.Close()
		_ = c.Stop(deadline(t, time.Second))
		c.Close()
		<-drained
	})
}
