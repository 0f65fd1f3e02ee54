package stdio

import (
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// script makes a logger and returns its URI: a shell script that is given dir
// as its argument.
func script(t *testing.T, scheme, body string) (uri, dir string) {
	t.Helper()
	dir = t.TempDir()
	path := filepath.Join(dir, "logger")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+body), 0o700); err != nil {
		t.Fatal(err)
	}
	u := url.URL{Scheme: scheme, Path: path, RawQuery: url.Values{"-dir": {dir}}.Encode()}
	return u.String(), dir
}

const goodLogger = `
echo "$1 $CONTAINER_ID $CONTAINER_NAMESPACE $(env | grep -c SECRET)" > $2/env
cat <&3 5>&- > $2/out & a=$!
cat <&4 5>&- > $2/err & b=$!
exec 5>&-
wait $a $b
echo flushed > $2/end
`

func TestLoggerGetsBothOutputs(t *testing.T) {
	t.Setenv("SECRET", "x")
	uri, dir := script(t, "binary", goodLogger)
	g := open(t, Config{Stdout: uri, Stderr: uri})
	g.write(t, g.out, "out")
	g.write(t, g.err, "err")
	g.drained(t, 3, 3)
	_ = g.out.Close()
	_ = g.err.Close()
	g.host.Wait() // it ends by itself, having seen the end of its input
	for name, want := range map[string]string{"out": "out", "err": "err", "end": "flushed\n", "env": "-dir id ns 0\n"} {
		if data, err := os.ReadFile(filepath.Join(dir, name)); string(data) != want {
			t.Errorf("%s is %q (%v), want %q", name, data, err, want)
		}
	}
}

func TestLoggerThatDiesDoesNotHoldUpTheProcess(t *testing.T) {
	uri, _ := script(t, "binary", "exit 1")
	g := open(t, Config{Stdout: uri})
	g.host.loggersEnded(t, g)
	written := make(chan result, 1)
	go func() {
		_, err := g.out.Write(make([]byte, 1<<20))
		written <- result{err: err}
	}()
	get(t, "the process's write", written)
	g.drained(t, 1<<20, 0)
}

// loggersEnded waits until the loggers of g have exited.
func (h *Host) loggersEnded(t *testing.T, g *guest) {
	t.Helper()
	for _, l := range g.loggers {
		select {
		case <-l.exited:
		case <-time.After(10 * time.Second):
			t.Fatal("the logger did not exit")
		}
	}
}

func TestLoggerThatIsNotReady(t *testing.T) {
	uri, _ := script(t, "binary-v2", "exit 0")
	h := NewHost("ns")
	_, err := h.Open(t.Context(), "id", Config{Stdout: uri})
	if err == nil || !strings.Contains(err.Error(), "ended before it said that it was ready") {
		t.Errorf("open: %v", err)
	}
	h.Wait()
	uri, _ = script(t, "binary-v2", "printf x >&5; exec 5>&-; cat <&3 >/dev/null")
	g := open(t, Config{Stdout: uri})
	_ = g.out.Close()
}

func TestLoggerThatDoesNotEndIsKilled(t *testing.T) {
	uri, dir := script(t, "binary", `
trap 'echo term > $2/term' TERM
exec 5>&-
while :; do sleep 1; done
`)
	h := NewHost("ns")
	s, err := h.Open(t.Context(), "id", Config{Stdout: uri})
	if err != nil {
		t.Fatal(err)
	}
	l := s.loggers[uri]
	begun := time.Now()
	if err := s.Close(); err != nil { // never attached: no time to flush
		t.Fatal(err)
	}
	h.Wait()
	if l.cmd.ProcessState == nil || l.cmd.ProcessState.Success() {
		t.Errorf("it ended with %v", l.cmd.ProcessState)
	}
	if d := time.Since(begun); d > loggerTerm+5*time.Second {
		t.Errorf("that took %s", d)
	}
	if _, err := os.Stat(filepath.Join(dir, "term")); err != nil {
		t.Errorf("it was not asked before: %v", err)
	}
}

func TestMissingLogger(t *testing.T) {
	h := NewHost("ns")
	_, err := h.Open(t.Context(), "id", Config{Stdout: "binary:///nowhere/logger"})
	if err == nil || !strings.Contains(err.Error(), "/nowhere/logger") {
		t.Errorf("open: %v", err)
	}
}
