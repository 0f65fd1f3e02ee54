package reexec

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func testBuild() *Build {
	return &Build{
		Entry:      Entry{Args: []string{"a", "bc"}, Environment: []string{"A=1"}, Directory: "/", Keyring: "k", Groups: []uint32{1}, Limits: []Limit{{7, 8, 9}}},
		Namespaces: unix.CLONE_NEWNS | unix.CLONE_NEWPID, Rootfs: "/r", Hostname: "h", Nodes: true,
		Mounts: []BuildMount{
			{Source: "proc", Target: "/proc", Type: "proc", NoLinks: true},
			{Source: "/s", Target: "/t", Bind: true, Flags: unix.MS_BIND | unix.MS_RDONLY, Attributes: true, Propagation: unix.MS_SLAVE},
		},
		Devices:       []BuildDevice{{Path: "/dev/null", Number: unix.Mkdev(1, 3), Mode: unix.S_IFCHR | 0o666}},
		ReadonlyPaths: []string{"/ro"}, MaskedPaths: []string{"/m", "/n"},
		Sysctls: []BuildSysctl{{"kernel/msgmax", "1"}},
	}
}

func TestBuildEncode(t *testing.T) {
	message, err := testBuild().Encode()
	if err != nil {
		t.Fatal(err)
	}
	tail := "/\x00k\x00a\x00bc\x00A=1\x00" + "/r\x00h\x00\x00" + "proc\x00/proc\x00proc\x00\x00/s\x00/t\x00\x00\x00" +
		"/dev/null\x00/ro\x00/m\x00/n\x00kernel/msgmax\x001\x00"
	if fixed := 80 + 32 + 8 + 24 + 2*16 + 24; !strings.HasSuffix(string(message), tail) || len(message) != fixed+len(tail) {
		t.Errorf("%d bytes, want %d and %d: %q", len(message), fixed, len(tail), message)
	}
	if !isWellFormed(message) {
		t.Error("the usher does not understand it")
	}
	for n := range message {
		if isWellFormed(message[:n]) {
			t.Errorf("the usher takes the first %d bytes for all", n)
		}
	}
	if isWellFormed(append(slices.Clone(message), 0)) {
		t.Error("the usher takes more than all")
	}
	entry, err := testBuild().Entry.Encode()
	if err != nil || !isWellFormed(entry) {
		t.Errorf("of the process alone: %v, or the usher does not understand it", err)
	}
}

func TestBuildEncodeRefuses(t *testing.T) {
	for name, change := range map[string]func(*Build){
		"rootfs": func(b *Build) { b.Rootfs = "a\x00" }, "name": func(b *Build) { b.Domainname = "a\x00" },
		"mount":  func(b *Build) { b.Mounts[0].Data = "a\x00" },
		"device": func(b *Build) { b.Devices[0].Path = "a\x00" },
		"mask":   func(b *Build) { b.MaskedPaths[1] = "a\x00" },
		"sysctl": func(b *Build) { b.Sysctls[0].Value = "a\x00" },
	} {
		b := testBuild()
		change(b)
		if _, err := b.Encode(); err == nil {
			t.Errorf("%s: a zero is encoded", name)
		}
	}
	b := testBuild()
	b.Mounts = slices.Repeat(b.Mounts, 4096)
	if _, err := b.Encode(); !errors.Is(err, ErrEntryTooLarge) {
		t.Errorf("many mounts: %v", err)
	}
}

// FuzzRequest has the usher take requests apart that the agent has not put together.
func FuzzRequest(f *testing.F) {
	message, err := testBuild().Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(message)
	if message, err = testBuild().Entry.Encode(); err != nil {
		f.Fatal(err)
	}
	f.Add(message)
	f.Fuzz(func(t *testing.T, message []byte) {
		if isWellFormed(message) && message[len(message)-1] != 0 {
			t.Errorf("%q does not end with a string", message)
		}
	})
}
