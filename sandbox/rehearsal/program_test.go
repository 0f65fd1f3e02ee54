package rehearsal

import (
	"bytes"
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestProgram: the program does on this machine what it is to do in a guest's.
func TestProgram(t *testing.T) {
	file := filepath.Join(t.TempDir(), "ready")
	if err := os.WriteFile(file, program(), 0o755); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(file).Output()
	if err != nil || string(out) != Word {
		t.Errorf("it said %q: %v", out, err)
	}
}

// TestLayout: what is in the program's file is where its code takes it to be.
func TestLayout(t *testing.T) {
	f, err := elf.NewFile(bytes.NewReader(program()))
	if err != nil {
		t.Fatal(err)
	}
	if f.Entry != textAddress+codeOffset || len(f.Progs) != 2 {
		t.Fatalf("it begins at %#x, and has %d segments", f.Entry, len(f.Progs))
	}
	if end := codeOffset + len(code); end > callsAddress-0x100-textAddress {
		t.Errorf("the code ends at %#x, in what follows", end)
	}
	if end := f.Progs[1].Vaddr + f.Progs[1].Memsz; end != dataAddress+dataSize {
		t.Errorf("the data end at %#x", end)
	}
}
