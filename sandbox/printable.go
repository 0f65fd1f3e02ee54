package sandbox

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// printable makes a guest's text fit for a log or an error: one line of at most
// limit bytes without control characters. A console's text, of which lines and nothing
// beyond ASCII are wanted, is process.Printable's.
func printable(s string, limit int) string {
	s = strings.ToValidUTF8(s, "?")
	s = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, s)
	if len(s) <= limit {
		return s
	}
	for limit > 0 && !utf8.RuneStart(s[limit]) {
		limit--
	}
	return s[:limit]
}
