package cgroup

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestEnter moves a process to where another is, in made-up hierarchies.
func TestEnter(t *testing.T) {
	sleep := exec.Command("sleep", "100")
	if err := sleep.Start(); err != nil {
		t.Fatal(err)
	}
	defer sleep.Wait()
	defer sleep.Process.Kill()
	var p Place
	for range 2 {
		h := hierarchy{mount: t.TempDir(), home: "/a/b"}
		if err := os.MkdirAll(h.dir(h.home), 0o755); err != nil {
			t.Fatal(err)
		}
		p.hierarchies = append(p.hierarchies, h)
	}
	if err := p.Enter(sleep.Process.Pid); err != nil {
		t.Fatal(err)
	}
	for _, h := range p.hierarchies {
		got, err := os.ReadFile(filepath.Join(h.dir(h.home), "cgroup.procs"))
		if err != nil || string(got) != strconv.Itoa(sleep.Process.Pid) {
			t.Errorf("%q, %v", got, err)
		}
	}
	p.hierarchies[0].home = "/gone"
	if err := p.Enter(sleep.Process.Pid); err == nil {
		t.Error("it has entered what is not there")
	}
}

// TestHere looks at the real ones: a process of ours is where we are.
func TestHere(t *testing.T) {
	here, err := Here()
	if err != nil {
		t.Skip(err)
	}
	for _, h := range here.hierarchies {
		procs, err := os.ReadFile(filepath.Join(h.dir(h.home), "cgroup.procs"))
		if err != nil {
			t.Skipf("this process does not see its own cgroup: %v", err)
		}
		if !slices.Contains(strings.Fields(string(procs)), strconv.Itoa(os.Getpid())) {
			t.Errorf("this process is not in %s of %s", h.home, h.mount)
		}
	}
}
