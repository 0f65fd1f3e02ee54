package e2e

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/hyperhq/hyper/test/harness"
	"github.com/hyperhq/hyper/test/pattern"
)

func itoa(n int) string { return strconv.Itoa(n) }

// patternSum is the checksum of the pattern's first bytes.
func patternSum(n int) string {
	sum := sha256.New()
	io.Copy(sum, pattern.NewReader(n))
	return fmt.Sprintf("%x", sum.Sum(nil))
}

// summer counts and sums what it gets.
type summer struct {
	n   int
	sum interface {
		io.Writer
		Sum([]byte) []byte
	}
}

func newSummer() *summer { return &summer{sum: sha256.New()} }

func (s *summer) Write(b []byte) (int, error) {
	s.n += len(b)
	return s.sum.Write(b)
}

func (s *summer) check(t *testing.T, what string, n int) {
	t.Helper()
	if got, want := fmt.Sprintf("%x", s.sum.Sum(nil)), patternSum(n); s.n != n || got != want {
		t.Errorf("%s: %d bytes with checksum %s, want %d with %s", what, s.n, got, n, want)
	}
}

// testStdin sends 20 MiB through cat.
func testStdin(t *testing.T, c *harness.Cell) {
	const size = 20 << 20
	out := newSummer()
	r := c.Container(t, harness.Args("cat")).Run(t, harness.IO{Stdin: pattern.NewReader(size), Stdout: out})
	if r.Status != 0 {
		t.Errorf("got %+v", r)
	}
	out.check(t, "through cat", size)
}

// testStdinEnd ends standard input at once, after some bytes, and in an exec.
func testStdinEnd(t *testing.T, c *harness.Cell) {
	r := c.Container(t, harness.Args("wc", "-c")).Run(t, harness.IO{Stdin: strings.NewReader("")})
	if r.Status != 0 || strings.TrimSpace(r.Stdout) != "0" {
		t.Errorf("nothing: %+v", r)
	}
	task := running(t, c)
	for _, text := range []string{"", "a", "no newline", strings.Repeat("x", 65536), strings.Repeat("y", 65537)} {
		p := task.Exec(t, harness.Command{Args: []string{"cat"}}, harness.IO{Stdin: strings.NewReader(text)})
		p.Start(t)
		if r := p.Finish(t); r.Status != 0 || r.Stdout != text {
			t.Errorf("%d bytes: status %d, %d bytes back", len(text), r.Status, len(r.Stdout))
		}
	}
	// Without standard input there is an end at once.
	if r := task.Do(t, "cat"); r.Status != 0 || r.Stdout != "" {
		t.Errorf("without standard input: %+v", r)
	}
}

// testCloseIO closes standard input before the start, and twice.
func testCloseIO(t *testing.T, c *harness.Cell) {
	task := c.Container(t, harness.Args("cat")).Create(t, harness.IO{StdinPipe: true})
	if _, err := task.Stdin.Write([]byte("kept")); err != nil {
		t.Fatal(err)
	}
	for i := range 2 {
		if err := task.CloseIO(t.Context()); err != nil {
			t.Errorf("closing %d times before the start: %v", i+1, err)
		}
	}
	if err := task.Stdin.Close(); err != nil {
		t.Errorf("closing the fifo: %v", err)
	}
	task.Start(t)
	if err := task.CloseIO(t.Context()); err != nil {
		t.Logf("closing after the start, when the process may have ended: %v", err)
	}
	if r := task.Finish(t); r.Status != 0 || r.Stdout != "kept" {
		t.Errorf("got %+v", r)
	}
}

// testConversation waits for each answer before it writes on.
func testConversation(t *testing.T, c *harness.Cell) {
	task := running(t, c)
	p := task.Exec(t, harness.Command{Args: []string{"sh", "-c", `while read line; do echo "got $line"; done; echo bye >&2`}}, harness.IO{StdinPipe: true})
	p.Start(t)
	for i := range 5 {
		if _, err := fmt.Fprintf(p.Stdin, "%d\n", i); err != nil {
			t.Fatal(err)
		}
		p.Expect(t, fmt.Sprintf("got %d\n", i))
	}
	if err := p.Stdin.Close(); err != nil {
		t.Fatal(err)
	}
	if r := p.Finish(t); r.Status != 0 || r.Stderr != "bye\n" || strings.Count(r.Stdout, "got") != 5 {
		t.Errorf("got %+v", r)
	}
}

// testFastExit loses nothing of what a process wrote just before it ended.
func testFastExit(t *testing.T, c *harness.Cell) {
	const size = 8 << 20
	out := newSummer()
	r := c.Container(t, harness.Args("probe", "write", itoa(size), "3")).Run(t, harness.IO{Stdout: out})
	if r.Status != 3 {
		t.Errorf("got %+v", r)
	}
	out.check(t, "the init", size)
	task := running(t, c)
	for i := range 3 {
		out := newSummer()
		p := task.Exec(t, harness.Command{Args: []string{"probe", "write", itoa(size), "4"}}, harness.IO{Stdout: out})
		p.Start(t)
		if r := p.Finish(t); r.Status != 4 {
			t.Errorf("exec %d: %+v", i, r)
		}
		out.check(t, "an exec", size)
	}
	// Small outputs fit into every buffer on the way.
	for range 10 {
		if r := task.Shell(t, "echo out; echo err >&2"); r.Stdout != "out\n" || r.Stderr != "err\n" {
			t.Fatalf("got %+v", r)
		}
	}
}

func testMuchOutput(t *testing.T, c *harness.Cell) {
	const size = 100 << 20
	out := newSummer()
	begin := time.Now()
	task := c.Container(t, harness.Args("probe", "write", itoa(size), "0")).Create(t, harness.IO{Stdout: out})
	task.Start(t)
	// An emulated guest on a busy machine is slow.
	if exit := task.Wait(t, 4*time.Minute); exit.Status != 0 {
		t.Errorf("it exited %d", exit.Status)
	}
	task.Delete(t)
	task.Collect(t)
	out.check(t, "much", size)
	t.Logf("%d MiB in %v", size>>20, time.Since(begin).Round(time.Millisecond))
}

// gate lets nothing through until it is opened.
type gate struct {
	open chan struct{}
	*summer
}

func (g *gate) Write(b []byte) (int, error) {
	<-g.open
	return g.summer.Write(b)
}

// testStalledReader stops reading for seconds: others are not stalled by it, and
// nothing is lost.
func testStalledReader(t *testing.T, c *harness.Cell) {
	const size, pause = 10 << 20, 2 * time.Second
	task := running(t, c)
	out := &gate{open: make(chan struct{}), summer: newSummer()}
	stalled := task.Exec(t, harness.Command{Args: []string{"probe", "write", itoa(size), "0"}}, harness.IO{Stdout: out})
	stalled.Start(t)
	open := sync.OnceFunc(func() { close(out.open) })
	defer open()
	for begin, n := time.Now(), 0; time.Since(begin) < pause; n++ {
		if r := task.Do(t, "echo", "not stalled"); r.Stdout != "not stalled\n" {
			t.Fatalf("exec %d beside a stalled one: %+v", n, r)
		}
	}
	open()
	if r := stalled.Finish(t); r.Status != 0 {
		t.Errorf("the stalled one: %+v", r)
	}
	out.check(t, "the stalled one", size)
}

// testGrandchild leaves a grandchild behind that keeps the output open.
func testGrandchild(t *testing.T, c *harness.Cell) {
	task := running(t, c)
	p := task.Exec(t, harness.Command{Args: []string{"sh", "-c", "sleep 1000 & echo parent is done"}}, harness.IO{})
	begin := time.Now()
	p.Start(t)
	if exit := p.Wait(t, harness.Soon); exit.Status != 0 {
		t.Errorf("exited %d", exit.Status)
	}
	t.Logf("waited %v", time.Since(begin).Round(time.Millisecond))
	p.Expect(t, "parent is done\n")
	p.Delete(t)
}

func testNoStreams(t *testing.T, c *harness.Cell) {
	if r := c.Container(t, harness.Sh("cat; echo x; echo y >&2; exit 5")).Run(t, harness.IO{None: true}); r.Status != 5 {
		t.Errorf("got %+v", r)
	}
}

// lines is a shell which reads lines as they are typed. An interactive one would
// edit them, and lose what is typed while it changes the terminal's mode.
const lines = `trap 'stop=1; echo interrupted' INT; while IFS= read -r line; do eval "$line"; done; exit 42`

// testTerminal speaks to a shell as a person does.
func testTerminal(t *testing.T, c *harness.Cell) {
	task := c.Container(t, harness.Sh(lines), terminal).Create(t, harness.IO{Terminal: true, StdinPipe: true})
	task.Start(t)
	speak(t, task)
	if r := task.Finish(t); r.Status != 42 {
		t.Errorf("the init: got %+v", r)
	}
	again := running(t, c)
	p := again.Exec(t, harness.Command{Args: []string{"sh", "-c", lines}}, harness.IO{Terminal: true, StdinPipe: true})
	p.Start(t)
	speak(t, p)
	if r := p.Finish(t); r.Status != 42 {
		t.Errorf("the exec: got %+v", r)
	}
}

// testResize checks that a process is told about its terminal's new size.
func testResize(t *testing.T, c *harness.Cell) {
	task := running(t, c)
	script := `trap 'echo window is $(stty size)' WINCH; stty size; while :; do sleep 0.05; done`
	p := task.Exec(t, harness.Command{Args: []string{"sh", "-c", script}, Changes: func(p *specs.Process) {
		p.ConsoleSize = &specs.Box{Width: 91, Height: 37}
	}}, harness.IO{Terminal: true})
	p.Start(t)
	p.Expect(t, "37 91\r\n")
	for _, size := range [][2]uint32{{80, 24}, {200, 60}} {
		if err := p.Resize(t, size[0], size[1]); err != nil {
			t.Fatalf("resizing: %v", err)
		}
		p.Expect(t, fmt.Sprintf("window is %d %d\r\n", size[1], size[0]))
	}
	if err := p.Kill(t, 9, false); err != nil {
		t.Errorf("killing it: %v", err)
	}
	if r := p.Finish(t); r.Status != 137 {
		t.Errorf("got %+v", r)
	}
	if err := task.Resize(t, 80, 24); err == nil {
		t.Log("a process without a terminal accepts a size")
	}
}

func speak(t *testing.T, p *harness.Task) {
	t.Helper()
	say := func(typed, answer string) {
		t.Helper()
		if _, err := io.WriteString(p.Stdin, typed); err != nil {
			t.Fatal(err)
		}
		if answer != "" {
			p.Expect(t, answer)
		}
	}
	say("echo $((6*7)) is the answer\n", "\r\n42 is the answer\r\n")
	if err := p.Resize(t, 123, 45); err != nil {
		t.Fatalf("resizing: %v", err)
	}
	say("stty size\n", "\r\n45 123\r\n")
	say("tty <&1\n", "\r\n/dev/")
	say("echo before; while [ -z $stop ]; do sleep 0.05; done; echo after $((3*5))\n", "\r\nbefore\r\n")
	// The terminal shows "^C" when it has sent the signal, which may already be answered then.
	say("\x03", "after 15\r\n")
	say("echo go; cat\n", "\r\ngo\r\n")
	say("typed\n", "typed\r\ntyped\r\n")
	say("\x04", "")
	say("echo at $((6+7)) the end\n", "at 13 the end\r\n")
	say("\x04", "")
}

// testFileLogger has the shim write to a file.
func testFileLogger(t *testing.T, c *harness.Cell) {
	dir := hostDir(t, c, nil)
	both := "file://" + filepath.Join(dir, "made", "both")
	c.Container(t, harness.Sh("echo one; echo two >&2")).Run(t, harness.IO{StdoutURI: both, StderrURI: both})
	got, _ := os.ReadFile(filepath.Join(dir, "made", "both"))
	if !bytes.Contains(got, []byte("one\n")) || !bytes.Contains(got, []byte("two\n")) || len(got) != 8 {
		t.Errorf("both outputs in one file: %q", got)
	}
}

// logger follows containerd's protocol for logging programs: outputs on 3 and 4,
// and 5 is closed when it is ready. It goes on until the outputs end, also if it
// is told to end before.
const logger = `#!/bin/sh
trap '' TERM
exec 5>&-
echo "$1 $2 $CONTAINER_NAMESPACE $CONTAINER_ID" > "$2/who"
cat <&3 > "$2/out" &
cat <&4 > "$2/err"
wait
echo done >> "$2/who"
`

func testBinaryLogger(t *testing.T, c *harness.Cell) {
	dir := hostDir(t, c, map[string]string{"logger": logger})
	if err := os.Chmod(filepath.Join(dir, "logger"), 0o755); err != nil {
		t.Fatal(err)
	}
	uri := fmt.Sprintf("binary://%s/logger?dir=%s", dir, dir)
	container := c.Container(t, harness.Sh("echo to out; echo to err >&2; probe write 1000000 0"))
	if r := container.Run(t, harness.IO{StdoutURI: uri, StderrURI: uri}); r.Status != 0 {
		t.Errorf("got %+v", r)
	}
	want := fmt.Sprintf("dir %s %s %s\ndone\n", dir, c.Namespace, container.ID)
	harness.Eventually(t, harness.Soon, func() error {
		if who, _ := os.ReadFile(filepath.Join(dir, "who")); string(who) != want {
			return fmt.Errorf("the logger says %q, want %q", who, want)
		}
		return nil
	})
	if got, _ := os.ReadFile(filepath.Join(dir, "err")); string(got) != "to err\n" {
		t.Errorf("it got on standard error %q", got)
	}
	got, _ := os.ReadFile(filepath.Join(dir, "out"))
	rest, ok := bytes.CutPrefix(got, []byte("to out\n"))
	if sum := fmt.Sprintf("%x", sha256.Sum256(rest)); !ok || len(rest) != 1000000 || sum != patternSum(1000000) {
		t.Errorf("it got %d bytes on standard output", len(got))
	}
}
