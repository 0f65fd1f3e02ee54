package reexec

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestEntryEncode(t *testing.T) {
	entry := func(args ...string) *Entry {
		return &Entry{Args: args, Directory: "/", Groups: []uint32{1, 2, 3}, Limits: []Limit{{7, 8, 9}}}
	}
	message, err := entry("a", "bc").Encode()
	if err != nil {
		t.Fatal(err)
	}
	// Of a request's parts only the strings have no fixed place.
	if tail := "/\x00\x00a\x00bc\x00"; !strings.HasSuffix(string(message), tail) || len(message) != 80+16+24+len(tail) {
		t.Errorf("%d bytes: %q", len(message), message)
	}
	if _, err := entry("a", "b\x00c").Encode(); err == nil {
		t.Error("a zero in an argument is encoded")
	}
	if _, err := entry(strings.Repeat("a", maxEntry)).Encode(); !errors.Is(err, ErrEntryTooLarge) {
		t.Errorf("a long argument: %v", err)
	}
	if _, err := entry(slices.Repeat([]string{""}, maxEntryStrings+1)...).Encode(); !errors.Is(err, ErrEntryTooLarge) {
		t.Errorf("many arguments: %v", err)
	}
}

func TestEntryAnswers(t *testing.T) {
	if pid, err := EntryPID([]byte{1, 2, 0, 0}); pid != 0x201 || err != nil {
		t.Errorf("%d %v", pid, err)
	}
	for _, bad := range [][]byte{nil, {0, 0, 0, 0}, {1, 2, 3}, {0xff, 0xff, 0xff, 0xff}} {
		if pid, err := EntryPID(bad); err == nil {
			t.Errorf("%v is pid %d", bad, pid)
		}
	}
	if _, err := EntryPID([]byte{0xf0, 0xff, 0xff, 0xff}); !errors.Is(err, unix.EBUSY) {
		t.Errorf("-EBUSY: %v", err)
	}
	if err := EntryFailure(nil); err != nil {
		t.Error(err)
	}
	failure := append([]byte{7, 0, 0, 0, byte(unix.ENOENT), 0, 0, 0}, make([]byte, 24)...)
	copy(failure[8:], "file.c")
	if err := EntryFailure(failure); !errors.Is(err, unix.ENOENT) || !strings.Contains(err.Error(), `"file.c":7`) {
		t.Error(err)
	}
	if err := EntryFailure([]byte{1}); err == nil {
		t.Error("half a failure is none")
	}
}
