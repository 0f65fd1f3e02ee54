package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/hyperhq/hyper/test/harness"
)

// recordHook is a hook of the host that keeps the state that it gets, and says
// whether the process in it lives.
const recordHook = `#!/bin/sh
state=$(cat)
echo "$state" > "$1"
pid=$(echo "$state" | tr ',{}' '\n\n\n' | sed -n 's/.*"pid": *\([0-9]*\).*/\1/p' | head -1)
if kill -0 "$pid" 2>/dev/null; then echo alive $VAR; else echo dead $VAR; fi > "$1.pid"
`

// testHooks runs hooks of the host on the host, and the container's in it.
func testHooks(t *testing.T, c *harness.Cell) {
	dir := hostDir(t, c, map[string]string{"hook": recordHook})
	hook := filepath.Join(dir, "hook")
	if err := os.Chmod(hook, 0o755); err != nil {
		t.Fatal(err)
	}
	on := func(name string) []specs.Hook {
		return []specs.Hook{{Path: hook, Args: []string{"hook", filepath.Join(dir, name)}, Env: []string{"VAR=value", "PATH=" + os.Getenv("PATH")}}}
	}
	container := c.Container(t, harness.Sh("cat /root/started; sleep 1000"), func(s *specs.Spec) {
		s.Hooks = &specs.Hooks{
			CreateRuntime: on("createRuntime"), Poststart: on("poststart"), Poststop: on("poststop"),
			StartContainer: []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "cat > /root/state; echo started by the hook > /root/started"}}},
		}
		//lint:ignore SA1019 deprecated, and what nerdctl attaches its networks with
		s.Hooks.Prestart = on("prestart")
	})
	task := container.Create(t, harness.IO{})
	for _, name := range []string{"prestart", "createRuntime"} {
		checkHook(t, dir, name, container.ID, "alive value\n")
	}
	if _, err := os.Stat(filepath.Join(dir, "poststop")); err == nil {
		t.Error("poststop ran before the end")
	}
	task.Start(t)
	task.Expect(t, "started by the hook\n")
	checkHook(t, dir, "poststart", container.ID, "alive value\n")
	if r := task.Shell(t, "grep -c ociVersion /root/state"); r.Status != 0 {
		t.Errorf("the container's hook got no state: %+v", r)
	}
	if err := task.Kill(t, 9, false); err != nil {
		t.Fatal(err)
	}
	task.Wait(t, harness.Patience)
	task.Delete(t)
	checkHook(t, dir, "poststop", container.ID, "")
}

func checkHook(t *testing.T, dir, name, id, pid string) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Errorf("%s: %v", name, err)
		return
	}
	var state specs.State
	if err := json.Unmarshal(data, &state); err != nil || state.ID != id || state.Bundle == "" || state.Version == "" || state.Status == "" {
		t.Errorf("%s got %q (%v)", name, data, err)
	}
	if got, _ := os.ReadFile(filepath.Join(dir, name+".pid")); pid != "" && string(got) != pid {
		t.Errorf("%s: the process %d of its state is %q, want %q", name, state.Pid, got, pid)
	}
}

// testFailingHook refuses the container, and says why.
func testFailingHook(t *testing.T, c *harness.Cell) {
	dir := hostDir(t, c, map[string]string{"hook": "#!/bin/sh\necho this hook refuses >&2\nexit 3\n"})
	hook := filepath.Join(dir, "hook")
	if err := os.Chmod(hook, 0o755); err != nil {
		t.Fatal(err)
	}
	container := c.Container(t, harness.Args("true"), func(s *specs.Spec) {
		s.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: hook}}}
	})
	_, err := container.TryCreate(t, harness.IO{})
	if err == nil || !strings.Contains(err.Error(), "exit status 3") || !strings.Contains(err.Error(), "this hook refuses") {
		t.Errorf("got %v", err)
	}
}
