package sandbox

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

func TestParseTimes(t *testing.T) {
	const stat = "12 (a ) name) S 1 12 12 0 -1 4194560 100 0 0 0 7 5 30 20 20 0 1 0 100 1000 10\n"
	if user, system, err := parseTimes([]byte(stat)); user != 370_000 || system != 250_000 || err != nil {
		t.Errorf("%d and %d microseconds, %v", user, system, err)
	}
	for _, wrong := range []string{"", "12 (name)", "12 (name) S 1 12 12 0 -1 4194560 100 0 0 0 7 5 x 20 20"} {
		if _, _, err := parseTimes([]byte(wrong)); err == nil {
			t.Errorf("%q was read", wrong)
		}
	}
}

func TestAddMemory(t *testing.T) {
	var u usage
	u.addMemory("00400000-7fff ---p 00000000 00:00 0 [rollup]\nRss: 900 kB\nPss: 10 kB\nPss_Anon: 1 kB\nPss_File:   2 kB\nPss_Shmem: 4 kB\nSwapPss: 8 kB\n")
	if want := (usage{anon: 1 << 10, file: 2 << 10, shmem: 4 << 10, swap: 8 << 10}); u != want {
		t.Errorf("got %+v, want %+v", u, want)
	}
	if m := u.metrics(); m.Memory.Usage != 7<<10 {
		t.Errorf("the sum is %d bytes", m.Memory.Usage)
	}
}

// TestUsageOf measures a process with a child that has been busy.
func TestUsageOf(t *testing.T) {
	cmd := exec.Command("sh", "-c", "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; sleep 1000 & echo ready; wait")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		for _, pid := range append(childrenOf(cmd.Process.Pid), cmd.Process.Pid) {
			if p, err := os.FindProcess(pid); err == nil {
				p.Kill()
			}
		}
		cmd.Wait()
	}()
	ready := make([]byte, len("ready\n"))
	if _, err := out.Read(ready); err != nil || !strings.HasPrefix(string(ready), "ready") {
		t.Fatalf("it says %q, %v", ready, err)
	}
	gone := exec.Command("true")
	if err := gone.Run(); err != nil {
		t.Fatal(err)
	}
	u, err := usageOf([]int{cmd.Process.Pid, gone.Process.Pid})
	if err != nil || u.processes != 2 || u.user == 0 || u.anon+u.file < 100<<10 || u.anon+u.file > 100<<20 {
		t.Errorf("got %+v, %v", u, err)
	}
}
