package agent

import (
	"path/filepath"
	"strings"
	"testing"
)

func TestGuest(t *testing.T) {
	list := kernels(t)
	agent := buildAgent(t)
	for _, dir := range list {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			g := startGuest(t, dir, agent)
			for name, test := range guestTests() {
				t.Run(name, func(t *testing.T) { test(t, g) })
			}
		})
	}
}

func guestTests() map[string]func(*testing.T, *testGuest) {
	return map[string]func(*testing.T, *testGuest){
		"output": testOutput,
	}
}

func testOutput(t *testing.T, g *testGuest) {
	exit, out, errs := g.run(t, "out", testSpec("out", "sh", "-c", "echo one; echo two >&2; exit 3"))
	if exit.Status != 3 || out != "one\n" || errs != "two\n" {
		t.Errorf("status %d, stdout %q, stderr %q", exit.Status, out, errs)
	}
	if exit.StdoutBytes != 4 || exit.StderrBytes != 4 {
		t.Errorf("counted %d and %d bytes", exit.StdoutBytes, exit.StderrBytes)
	}
	if status, out := g.shell(t, "uname", "hostname; cat /proc/self/status | grep -i seccomp"); status != 0 || !strings.HasPrefix(out, "ctr-uname\n") {
		t.Errorf("status %d: %s", status, out)
	}
}
