package cri

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/hyperhq/hyper/test/harness"
)

// entry is one line of a log.
type entry struct {
	time   time.Time
	stream string
	text   string // ends with a newline if the line is complete
}

// parseLog reads CRI's format: time, stream, tag, text.
func parseLog(t *testing.T, data []byte) []entry {
	t.Helper()
	var entries []entry
	for line := range strings.Lines(string(data)) {
		fields := strings.SplitN(strings.TrimSuffix(line, "\n"), " ", 4)
		if len(fields) != 4 {
			t.Fatalf("a line of the log is not in CRI's format: %q", line)
		}
		at, err := time.Parse(time.RFC3339Nano, fields[0])
		if err != nil {
			t.Fatalf("a line of the log has no time: %q: %v", line, err)
		}
		text := fields[3]
		if fields[2] == "F" {
			text += "\n"
		}
		entries = append(entries, entry{at, fields[1], text})
	}
	return entries
}

// testLogs reads what a container wrote to both streams.
func testLogs(t *testing.T, n *node) {
	begin := time.Now()
	c := n.shared(t).run(t, []string{"sh", "-c", "echo out; echo err >&2; head -c 40000 /dev/zero | tr '\\0' x; echo; printf unfinished"})
	c.exit(t)
	data, err := os.ReadFile(c.log)
	if err != nil {
		t.Fatal(err)
	}
	streams := map[string]string{}
	for _, e := range parseLog(t, data) {
		streams[e.stream] += e.text
		if e.time.Before(begin.Add(-time.Second)) || e.time.After(time.Now()) {
			t.Errorf("a line is of %v, the container began at %v", e.time, begin)
		}
	}
	// containerd tells a line without an end apart from one with it by its tag.
	if want := "out\n" + strings.Repeat("x", 40000) + "\nunfinished"; strings.TrimSuffix(streams["stdout"], "\n") != want {
		t.Errorf("stdout has %d bytes, want %d: %.100q", len(streams["stdout"]), len(want), streams["stdout"])
	}
	if streams["stderr"] != "err\n" {
		t.Errorf("stderr: %q", streams["stderr"])
	}
}

// testLogRotation moves the log of a container that writes away, as the kubelet
// does: what comes later is in a new file, and nothing is lost.
func testLogRotation(t *testing.T, n *node) {
	const lines = 100
	c := n.shared(t).run(t, []string{"probe", "trickle", fmt.Sprint(lines), "20"})
	harness.Eventually(t, patience, func() error {
		if data, err := os.ReadFile(c.log); err != nil || len(data) == 0 {
			return fmt.Errorf("nothing is in the log: %v", err)
		}
		return nil
	})
	rotated := filepath.Join(filepath.Dir(c.log), "rotated")
	if err := os.Rename(c.log, rotated); err != nil {
		t.Fatal(err)
	}
	if _, err := n.runtime.ReopenContainerLog(t.Context(), &runtimeapi.ReopenContainerLogRequest{ContainerId: c.id}); err != nil {
		t.Fatal(err)
	}
	c.exit(t)
	old, err := os.ReadFile(rotated)
	if err != nil {
		t.Fatal(err)
	}
	after, err := os.ReadFile(c.log)
	if err != nil {
		t.Fatal(err)
	}
	if len(after) == 0 {
		t.Error("nothing was logged after the rotation")
	}
	all := parseLog(t, append(old, after...))
	if len(all) != lines {
		t.Errorf("%d lines are in the logs, want %d", len(all), lines)
	}
	for i, e := range all {
		if e.text != fmt.Sprintf("%d\n", i) {
			t.Fatalf("line %d is %q", i, e.text)
		}
	}
}
