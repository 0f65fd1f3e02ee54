package process

import (
	"strings"
	"sync"
)

// Tail keeps the last bytes that were written to it and shows them as printable
// text. What it holds may have been written by a hostile guest, for a person to
// read in a terminal. It is safe for concurrent use.
type Tail struct {
	limit int

	mu   sync.Mutex
	kept []byte
	// cut says that older bytes have been dropped.
	cut bool
}

// NewTail returns a Tail that keeps at most limit bytes.
func NewTail(limit int) *Tail {
	return &Tail{limit: limit}
}

// Write keeps the end of p. It never fails.
func (t *Tail) Write(p []byte) (int, error) {
	n := len(p)
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(p) > t.limit {
		p = p[len(p)-t.limit:]
		t.cut = true
	}
	t.kept = append(t.kept, p...)
	// Twice the limit is allowed to gather, so that a byte moves once per limit
	// bytes written and not on each write.
	if len(t.kept) > 2*t.limit {
		t.trim()
	}
	return n, nil
}

// String returns what is kept: ASCII text of at most limit bytes in whole lines,
// unless one line alone is longer. What cannot be printed reads "?", and the
// escape sequences of terminals are left out.
func (t *Tail) String() string {
	t.mu.Lock()
	t.trim()
	kept, cut := string(t.kept), t.cut
	t.mu.Unlock()
	if cut {
		if i := strings.IndexByte(kept, '\n'); i >= 0 && i+1 < len(kept) {
			kept = kept[i+1:]
		}
	}
	return strings.TrimSpace(Printable(kept))
}

func (t *Tail) trim() {
	if over := len(t.kept) - t.limit; over > 0 {
		t.kept = append(t.kept[:0], t.kept[over:]...)
		t.cut = true
	}
}

// Printable returns s as ASCII text that is safe to show in a terminal and to
// put into a log: control characters and all beyond ASCII become "?", carriage
// returns and terminal escape sequences are dropped. It is never longer than s.
func Printable(s string) string {
	var b strings.Builder
	b.Grow(len(s))
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\n' || c == '\t' || (c >= ' ' && c <= '~'):
			b.WriteByte(c)
		case c == '\r':
		case c == 0x1b:
			i += escapeLen(s[i+1:])
		default:
			b.WriteByte('?')
		}
	}
	return b.String()
}

// escapeLen returns how many bytes at the start of s belong to the escape
// sequence that an ESC before s began.
func escapeLen(s string) int {
	if s == "" || s[0] != '[' {
		return min(len(s), 1)
	}
	// A control sequence: parameters, then one final byte from '@' to '~'.
	for i := 1; i < len(s); i++ {
		switch c := s[i]; {
		case c >= '@' && c <= '~':
			return i + 1
		case c < ' ' || c > '?':
			return i
		}
	}
	return len(s)
}
