package record

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// sleeper is a process to be killed.
func sleeper(t *testing.T) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("sleep", "600")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	return cmd
}

func TestOnlyRecordedProcessesAreKilled(t *testing.T) {
	ours, other := sleeper(t), sleeper(t)
	r, err := Of(ours.Process.Pid, "sleep with (odd) name")
	if err != nil {
		t.Fatal(err)
	}
	o, err := Of(other.Process.Pid, "other")
	if err != nil {
		t.Fatal(err)
	}
	o.Start++ // it had the same id and is another now
	path := filepath.Join(t.TempDir(), "pids")
	if err := os.WriteFile(path, []byte("nonsense\n"+o.String()+"\n"+r.String()+"\n1 1 init\n-1 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	gone := make(chan error, 2)
	go func() { gone <- ours.Wait() }()
	for range 2 { // the second finds nothing
		hs, err := OpenAll(path)
		if err := errors.Join(err, KillAll(t.Context(), hs)); err != nil {
			t.Fatal(err)
		}
	}
	<-gone
	if err := other.Process.Signal(syscall.Signal(0)); err != nil {
		t.Errorf("the other process is gone: %v", err)
	}
	_ = other.Process.Kill()
	_ = other.Wait()
	if h, err := o.Open(); h != nil || err != nil {
		t.Errorf("a dead process opens: %v, %v", h, err)
	}
}

func TestWaitIsBounded(t *testing.T) {
	p := sleeper(t)
	r, err := Of(p.Process.Pid, "sleep")
	if err != nil {
		t.Fatal(err)
	}
	h, err := r.Open()
	if err != nil || h == nil {
		t.Fatalf("open: %v, %v", h, err)
	}
	defer h.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := h.Wait(ctx); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("wait: %v", err)
	}
	_ = p.Process.Kill()
	_ = p.Wait()
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("12 34 qemu-system-x86_64\n13 35 a name\n"))
	f.Add([]byte("1 1 init\n-5 1 x\n99999999999999999999 1 y\n2 18446744073709551616 z"))
	f.Add([]byte{0, 10, 32, 32})
	f.Fuzz(func(t *testing.T, data []byte) {
		rs := Parse(data)
		if len(rs) > maxRecords {
			t.Errorf("%d records", len(rs))
		}
		for _, r := range rs {
			if r.PID < 2 {
				t.Errorf("record %v", r)
			}
			if again := Parse([]byte(r.String())); len(again) != 1 || again[0].PID != r.PID || again[0].Start != r.Start {
				t.Errorf("%v reads as %v", r, again)
			}
		}
	})
}
