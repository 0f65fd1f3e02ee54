package sandbox

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

func hookScript(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "hook")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestAHookGetsTheStateAndItsOwnEnvironment(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out")
	hook := specs.Hook{Path: hookScript(t, `cat >"$OUT"; echo "$0 $1" >>"$OUT"`), Args: []string{"me", "arg"}, Env: []string{"OUT=" + out, "PATH=/bin:/usr/bin"}}
	state, _ := json.Marshal(specs.State{ID: "c1", Pid: 42})
	if err := runHook(t.Context(), hook, state); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(out)
	if err != nil || !strings.Contains(string(got), `"pid":42`) || !strings.HasSuffix(string(got), " arg\n") {
		t.Errorf("the hook got %q, %v", got, err)
	}
}

func TestAHookThatFailsOrHangsIsAnErrorThatTellsWhy(t *testing.T) {
	err := runHook(t.Context(), specs.Hook{Path: hookScript(t, "echo because; exit 3")}, nil)
	if err == nil || !strings.Contains(err.Error(), "because") || !strings.Contains(err.Error(), "3") {
		t.Errorf("a failing hook: %v", err)
	}
	second := 1
	err = runHook(t.Context(), specs.Hook{Path: hookScript(t, "exec sleep 60"), Timeout: &second, Env: []string{"PATH=/bin:/usr/bin"}}, nil)
	if err == nil || !strings.Contains(err.Error(), "1s") {
		t.Errorf("a hanging hook: %v", err)
	}
}
