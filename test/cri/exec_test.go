package cri

import (
	"bufio"
	"crypto/sha256"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/hyperhq/hyper/test/harness"
)

// testExecSync runs commands to their end.
func testExecSync(t *testing.T, n *node) {
	c := n.shared(t).sleeper(t)
	r, err := c.tryExec(t, harness.Slowly(patience/2), "sh", "-c", "echo out; echo err >&2; exit 3")
	if err != nil {
		t.Fatal(err)
	}
	if r.ExitCode != 3 || string(r.Stdout) != "out\n" || string(r.Stderr) != "err\n" {
		t.Errorf("got %v", r)
	}
	r, err = c.tryExec(t, harness.Slowly(patience/2), "sh", "-c", "kill -9 $$")
	if err != nil || r.ExitCode != 137 {
		t.Errorf("a command that kills itself: %v, %v", r, err)
	}
	if _, err = c.tryExec(t, harness.Slowly(patience/2), "no-such-command"); err == nil {
		t.Error("a command that does not exist was run")
	}
	if got := c.exec(t, "sh", "-c", "probe write 1000000 0 | sha256sum | cut -d ' ' -f 1"); got != c.exec(t, "probe", "pattern", "1000000") {
		t.Errorf("the pattern's sum is %s", got)
	}
}

// testExecTimeout runs a command that takes too long: it is killed.
func testExecTimeout(t *testing.T, n *node) {
	c := n.shared(t).sleeper(t)
	begin := time.Now()
	r, err := c.tryExec(t, time.Second, "sleep", "4321")
	if err == nil || !strings.Contains(err.Error(), "timeout") {
		t.Errorf("the command's end: %v, %v", r, err)
	}
	if took := time.Since(begin); took < time.Second || took > harness.Slowly(patience/2) {
		t.Errorf("it timed out after %v", took)
	}
	if got := c.sh(t, "ps -o args | grep -c '[s]leep 4321' || true"); got != "0" {
		t.Errorf("%s of the command's processes are left", got)
	}
}

// execURL asks for a streamed command.
func (c *container) execURL(t *testing.T, s streamed, args ...string) string {
	t.Helper()
	r, err := c.pod.node.runtime.Exec(t.Context(), &runtimeapi.ExecRequest{
		ContainerId: c.id, Cmd: args, Stdin: s.stdin, Stdout: s.stdout, Stderr: s.stderr, Tty: s.tty,
	})
	if err != nil {
		t.Fatalf("asking for an exec of %q: %v", args, err)
	}
	return r.Url
}

// execStreams runs a command with streams.
func (c *container) execStreams(t *testing.T, s streamed, args ...string) *command {
	t.Helper()
	return c.pod.node.attachTo(t, c.execURL(t, s, args...), s)
}

// testExecStreams has a command with all three streams: the end of stdin gets
// through, and so does every byte.
func testExecStreams(t *testing.T, n *node) {
	c := n.shared(t).sleeper(t)
	e := c.execStreams(t, streamed{stdin: true, stdout: true, stderr: true}, "sh", "-c", "sha256sum; echo done >&2; exit 5")
	const size = 4 << 20
	sum := sha256.New()
	if _, err := io.CopyN(io.MultiWriter(e.stdin, sum), endless{}, size); err != nil {
		t.Fatal(err)
	}
	e.stdin.Close()
	if got, want := readAll(t, e.stdout), fmt.Sprintf("%x  -\n", sum.Sum(nil)); got != want {
		t.Errorf("stdout: %q, want %q", got, want)
	}
	if got := readAll(t, e.stderr); got != "done\n" {
		t.Errorf("stderr: %q", got)
	}
	if code := e.exit(t); code != 5 {
		t.Errorf("it exited with %d", code)
	}
	// Without stdin: what reads it sees its end at once.
	e = c.execStreams(t, streamed{stdout: true}, "sh", "-c", "cat; echo end")
	if got := readAll(t, e.stdout); got != "end\n" {
		t.Errorf("without stdin: %q", got)
	}
	if code := e.exit(t); code != 0 {
		t.Errorf("it exited with %d", code)
	}
}

// endless is a text without an end.
type endless struct{}

func (endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'a' + byte(i%26)
	}
	return len(p), nil
}

// testExecTerminal talks to a shell at a terminal.
func testExecTerminal(t *testing.T, n *node) {
	e := n.shared(t).sleeper(t).execStreams(t, streamed{stdin: true, stdout: true, tty: true}, "sh")
	e.setSize(t, 123, 45)
	out := bufio.NewReader(e.stdout)
	// The size is told by a stream of its own, which may be slower.
	fmt.Fprintln(e.stdin, "until [ \"$(stty size)\" = '45 123' ]; do sleep 0.1; done; tty; echo size is set")
	readUntil(t, out, func(line string) bool { return strings.HasPrefix(line, "size is set") })
	fmt.Fprintln(e.stdin, "exit 9")
	readAll(t, out)
	if code := e.exit(t); code != 9 {
		t.Errorf("the shell exited with %d", code)
	}
}

// attach asks for a running container's streams.
func (c *container) attach(t *testing.T, s streamed) *command {
	t.Helper()
	r, err := c.pod.node.runtime.Attach(t.Context(), &runtimeapi.AttachRequest{
		ContainerId: c.id, Stdin: s.stdin, Stdout: s.stdout, Stderr: s.stderr, Tty: s.tty,
	})
	if err != nil {
		t.Fatalf("asking for a container's streams: %v", err)
	}
	return c.pod.node.attachTo(t, r.Url, s)
}

// testAttach writes to a container and reads it, twice, and ends it by the end of
// its stdin.
func testAttach(t *testing.T, n *node) {
	c := n.shared(t).run(t, []string{"sh", "-c", "while read line; do echo got $line; done; exit 4"}, func(c *runtimeapi.ContainerConfig) {
		c.Stdin, c.StdinOnce = true, false
	})
	for i := range 2 {
		a := c.attach(t, streamed{stdin: true, stdout: true, stderr: true})
		fmt.Fprintf(a.stdin, "line %d\n", i)
		readUntil(t, bufio.NewReader(a.stdout), func(line string) bool { return line == fmt.Sprintf("got line %d\n", i) })
		a.stdin.Close()
	}
	if s := c.status(t); s.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
		t.Errorf("the container is %v after its clients have left", s.State)
	}
}

// testAttachOnce ends a container by the end of its stdin, which it has once.
func testAttachOnce(t *testing.T, n *node) {
	c := n.shared(t).run(t, []string{"sh", "-c", "cat; exit 4"}, func(c *runtimeapi.ContainerConfig) {
		c.Stdin, c.StdinOnce = true, true
	})
	a := c.attach(t, streamed{stdin: true, stdout: true, stderr: true})
	fmt.Fprintln(a.stdin, "the only line")
	a.stdin.Close()
	if got := readAll(t, a.stdout); got != "the only line\n" {
		t.Errorf("stdout: %q", got)
	}
	if s := c.exit(t); s.ExitCode != 4 {
		t.Errorf("it exited with %d", s.ExitCode)
	}
}

// testAttachTerminal attaches to a container with a terminal.
func testAttachTerminal(t *testing.T, n *node) {
	c := n.shared(t).run(t, []string{"sh"}, func(c *runtimeapi.ContainerConfig) {
		c.Stdin, c.Tty = true, true
	})
	a := c.attach(t, streamed{stdin: true, stdout: true, tty: true})
	a.setSize(t, 99, 33)
	out := bufio.NewReader(a.stdout)
	fmt.Fprintln(a.stdin, "until [ \"$(stty size)\" = '33 99' ]; do sleep 0.1; done; echo size is set")
	readUntil(t, out, func(line string) bool { return strings.HasPrefix(line, "size is set") })
	fmt.Fprintln(a.stdin, "exit 6")
	if s := c.exit(t); s.ExitCode != 6 {
		t.Errorf("the shell exited with %d", s.ExitCode)
	}
}
