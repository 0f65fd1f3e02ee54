package shim

import (
	"fmt"
	"io"
	"time"
)

const (
	// logBurst is how much may be logged at once, and logRate in a second on the whole, in
	// bytes.
	logBurst = 1 << 20
	logRate  = 16 << 10
)

// pacedLog leaves out lines beyond a rate. Some are about what a guest does, and
// containerd's log is the host's: a guest must not fill it. The logger writes one line at a
// time.
type pacedLog struct {
	out  io.Writer
	room int // in bytes
	last time.Time
	lost int // lines since the last that was written
}

func (l *pacedLog) Write(p []byte) (int, error) {
	now := time.Now()
	// Lines may come faster than bytes are earned: then the time goes on counting.
	if earned := int(min(now.Sub(l.last), time.Hour).Seconds() * logRate); earned > 0 {
		l.room, l.last = min(l.room+earned, logBurst), now
	}
	if len(p) > l.room {
		l.lost++
		return len(p), nil
	}
	l.room -= len(p)
	if l.lost > 0 {
		notice := fmt.Sprintf("time=%q level=warning msg=\"%d lines were left out here, of too many\" runtime=%s\n",
			now.Format(time.RFC3339Nano), l.lost, Name)
		l.lost = 0
		if _, err := io.WriteString(l.out, notice); err != nil {
			return 0, err
		}
	}
	return l.out.Write(p)
}
