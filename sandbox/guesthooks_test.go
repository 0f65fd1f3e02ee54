package sandbox

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

func TestGuestHooksNeedNoOtherFile(t *testing.T) {
	dir := t.TempDir()
	script := filepath.Join(dir, "script")
	if err := os.WriteFile(script, []byte("#! /bin/sh -e\necho\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	empty := filepath.Join(dir, "empty")
	if err := os.WriteFile(empty, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	for path, says := range map[string]string{
		"/bin/busybox":                  "", // static: the test images are made of it
		script:                          "needs /bin/sh -e,",
		"/bin/true":                     "needs /lib64/ld-linux",
		empty:                           "reading it",
		dir:                             "no regular file",
		filepath.Join(dir, "not-there"): "no such file",
	} {
		if _, err := os.Stat(path); err != nil && strings.HasPrefix(path, "/bin") {
			t.Logf("not on this machine: %v", err)
			continue
		}
		err := checkGuestHooks(&specs.Spec{Hooks: &specs.Hooks{CreateContainer: []specs.Hook{{Path: path}}}})
		switch {
		case says == "" && err != nil:
			t.Errorf("%s: %v", path, err)
		case says != "" && (err == nil || !strings.Contains(err.Error(), says) || !strings.Contains(err.Error(), path)):
			t.Errorf("%s: %v, want one that says %q", path, err, says)
		}
	}
}
