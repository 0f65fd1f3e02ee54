package agent

import (
	"fmt"
	"io"
	"sync"
)

// logger writes short lines to the guest's console, which the host keeps for
// its error messages. A slow console must not be flooded: what is not needed to
// understand a failure is debug.
type logger struct {
	mu    sync.Mutex
	w     io.Writer
	clock func() uint64 // µs since the kernel started
	debug bool
}

func (l *logger) infof(format string, args ...any) { l.printf(format, args...) }

func (l *logger) debugf(format string, args ...any) {
	if l.debug {
		l.printf(format, args...)
	}
}

func (l *logger) printf(format string, args ...any) {
	us := l.clock()
	head := fmt.Sprintf("[%5d.%06d] hyper-agent: ", us/1e6, us%1e6)
	line := append(fmt.Appendf([]byte(head), format, args...), '\n')
	l.mu.Lock()
	defer l.mu.Unlock()
	// There is nobody to tell of a console that cannot be written.
	_, _ = l.w.Write(line)
}
