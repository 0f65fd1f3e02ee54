package process

import (
	"strings"
	"testing"
)

func TestTail(t *testing.T) {
	for _, tc := range []struct {
		name   string
		limit  int
		writes []string
		want   string
	}{
		{"empty", 10, nil, ""},
		{"fits", 10, []string{"ab\n", "cd"}, "ab\ncd"},
		{"whole lines", 10, []string{"first\n", "second\n", "3rd\n"}, "3rd"},
		{"one long line", 5, []string{"abcdefgh"}, "defgh"},
		{"one long write", 4, []string{strings.Repeat("x", 100) + "\nyz\n"}, "yz"},
		{"control characters", 99, []string{"a\x00b\x07c\r\n\x1b[31mred\x1b[0m\x1bc é"}, "a?b?c\nred ??"},
		{"cut escape", 99, []string{"a\x1b[12;"}, "a"},
		{"broken escape", 99, []string{"a\x1b[1\nb"}, "a\nb"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tail := NewTail(tc.limit)
			for _, w := range tc.writes {
				if n, err := tail.Write([]byte(w)); n != len(w) || err != nil {
					t.Fatalf("Write() = %d, %v", n, err)
				}
			}
			if got := tail.String(); got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

// FuzzPrintable: whatever the guest writes, a person's terminal gets plain text.
func FuzzPrintable(f *testing.F) {
	f.Add("plain\n")
	f.Add("\x1b]0;title\x07\x1b[2J\x1b[")
	f.Add("\x9b31m\xff\x00")
	f.Fuzz(func(t *testing.T, s string) {
		got := Printable(s)
		if len(got) > len(s) {
			t.Errorf("%q grew to %q", s, got)
		}
		for _, c := range []byte(got) {
			if c != '\n' && c != '\t' && (c < ' ' || c > '~') {
				t.Errorf("%q became %q", s, got)
			}
		}
		tail := NewTail(16)
		_, _ = tail.Write([]byte(s))
		if len(tail.String()) > 16 {
			t.Errorf("a tail of 16 bytes holds %q", tail.String())
		}
	})
}
