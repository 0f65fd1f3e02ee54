package shim

import (
	"bytes"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/log"
	"github.com/sirupsen/logrus"
)

func TestALogThatIsFloodedIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		l := &pacedLog{out: &out, room: logBurst, last: time.Now()}
		line := []byte(strings.Repeat("x", 127) + "\n")
		flood := func() {
			for range 2 * logBurst / len(line) {
				if n, err := l.Write(line); n != len(line) || err != nil {
					t.Fatalf("%d, %v", n, err)
				}
			}
		}
		flood()
		if out.Len() != logBurst-logReserve {
			t.Errorf("of a flood %d bytes were written", out.Len())
		}
		out.Reset()
		time.Sleep(10 * time.Second)
		if _, err := l.Write([]byte("after\n")); err != nil {
			t.Fatal(err)
		}
		if got := out.String(); !strings.HasSuffix(got, "\nafter\n") || !strings.Contains(got, "10240 lines were left out") {
			t.Errorf("after it: %q", got)
		}
		out.Reset()
		flood()
		if got, most := out.Len(), 10*logRate; got > most || got < most-1024 {
			t.Errorf("ten seconds later %d bytes were written, want %d", got, most)
		}
		out.Reset()
		for range 100_000 { // a second of one that does not end
			time.Sleep(10 * time.Microsecond)
			if _, err := l.Write(line); err != nil {
				t.Fatal(err)
			}
		}
		if got := out.Len(); got > 2*logRate || got < logRate/2 {
			t.Errorf("in a second of flood %d bytes were written, the rate is %d", got, logRate)
		}
	})
}

func TestALogAtAnOrdinaryPaceIsWhole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		l := &pacedLog{out: &out, room: logBurst, last: time.Now()}
		line := []byte(strings.Repeat("x", 199) + "\n")
		const lines = 40 << 10
		for range lines {
			time.Sleep(20 * time.Millisecond) // 50 a second
			if _, err := l.Write(line); err != nil {
				t.Fatal(err)
			}
		}
		if out.Len() != lines*len(line) {
			t.Errorf("%d bytes of %d", out.Len(), lines*len(line))
		}
	})
}

// TestWarningsOutliveAFlood has debug lines use up what they may.
func TestWarningsOutliveAFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		before := log.L.Logger.Formatter
		defer func() { log.L.Logger.SetFormatter(before) }()
		if err := log.SetFormat(log.TextFormat); err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		l := &pacedLog{out: &out, room: logBurst, last: time.Now()}
		said := log.L.Dup()
		said.Logger = &logrus.Logger{Out: l, Formatter: log.L.Logger.Formatter, Level: logrus.DebugLevel}
		flood := func() {
			for range logBurst / 128 {
				said.Debugf("a guest says: level=error %s", strings.Repeat("x", 128))
			}
		}
		flood()
		out.Reset()
		said.Error("the agent is lost")
		said.Warn("so much for that")
		if got := out.String(); !strings.Contains(got, "the agent is lost") || !strings.Contains(got, "so much for that") {
			t.Errorf("after a flood of debug lines: %q", got)
		}
		out.Reset()
		flood()
		if out.Len() > 0 {
			t.Errorf("debug lines have used %d bytes of what is kept for others", out.Len())
		}
		for range 2 { // once, not again
			if err := l.end(); err != nil {
				t.Error(err)
			}
		}
		if got := out.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, "8192 lines were left out") {
			t.Errorf("at the end: %q", got)
		}
	})
}
