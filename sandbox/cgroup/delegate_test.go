package cgroup

import (
	"os"
	"path/filepath"
	"testing"
)

// TestDelegate hands on what each group of a made-up hierarchy has.
func TestDelegate(t *testing.T) {
	h := hierarchy{mount: t.TempDir(), unified: true}
	for dir, controllers := range map[string]string{"/": "cpu memory", "/a": "memory", "/a/b": "memory"} {
		files(t, h.dir(dir), "cgroup.subtree_control")
		if err := os.WriteFile(filepath.Join(h.dir(dir), "cgroup.controllers"), []byte(controllers+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	h.delegate("/a/b")
	// Of what is written one after the other a file, which is no cgroup's, keeps as much as the longer ones have.
	for dir, want := range map[string]string{"/": "+memory", "/a": "+memory", "/a/b": ""} {
		if got := content(t, filepath.Join(h.dir(dir), "cgroup.subtree_control")); got != want {
			t.Errorf("%s hands on %q, want %q", dir, got, want)
		}
	}
	h.delegate("/gone/further") // nobody there to hand on
}
