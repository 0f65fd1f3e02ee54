package shim

import (
	"bytes"
	"fmt"
	"io"
	"sync"
	"time"
)

const (
	// logBurst is how much may be logged at once, and logRate in a second on the whole, in
	// bytes.
	logBurst = 1 << 20
	logRate  = 16 << 10
	// logReserve is what of logBurst only warnings and errors may use: what ends a pod is
	// told, however much was said before.
	logReserve = 256 << 10
)

// pacedLog leaves out lines beyond a rate. Some are about what a guest does, and
// containerd's log is the host's: a guest must not fill it. A line is written by one call.
type pacedLog struct {
	out io.Writer
	mu  sync.Mutex // guards the rest: the logger's end is not the logger's call

	room int // in bytes
	last time.Time
	lost int // lines since the last that was written
}

func (l *pacedLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	// Lines may come faster than bytes are earned: then the time goes on counting.
	if earned := int(min(now.Sub(l.last), time.Hour).Seconds() * logRate); earned > 0 {
		l.room, l.last = min(l.room+earned, logBurst), now
	}
	free := l.room
	if !isWarning(p) {
		free -= logReserve
	}
	if len(p) > free {
		l.lost++
		return len(p), nil
	}
	l.room -= len(p)
	if err := l.tellLost(now); err != nil {
		return 0, err
	}
	return l.out.Write(p)
}

// end tells of the lines that were left out last, with none after them.
func (l *pacedLog) end() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.tellLost(time.Now())
}

func (l *pacedLog) tellLost(now time.Time) error {
	if l.lost == 0 {
		return nil
	}
	notice := fmt.Sprintf("time=%q level=warning msg=\"%d lines were left out here, of too many\" runtime=%s\n",
		now.Format(time.RFC3339Nano), l.lost, Name)
	l.lost = 0
	_, err := io.WriteString(l.out, notice)
	return err
}

// isWarning says whether a line of the logger's is a warning or worse. Its level comes
// before all that others have a say in.
func isWarning(line []byte) bool {
	_, rest, _ := bytes.Cut(line, []byte(" level="))
	level, _, _ := bytes.Cut(rest, []byte(" "))
	switch string(level) {
	case "warning", "error", "fatal", "panic":
		return true
	}
	return false
}
