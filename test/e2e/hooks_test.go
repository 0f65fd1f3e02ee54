package e2e

import (
	"encoding/json"
	"os"
	"os/exec"
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

// inContainerScript is of a hook that runs in the container's namespaces: it keeps
// the state that it gets, its variable and its argument in a file of the container,
// by the path that it is given. It has no other program.
const inContainerScript = `read -r state; dir=${state#*\"bundle\":\"}; dir=${dir%%\"*}
echo "$state" > "$dir/rootfs/root/$1"; echo "$0 $VAR" >> "$dir/rootfs/root/$1"`

// testContainerHooks runs createContainer and startContainer hooks.
func testContainerHooks(t *testing.T, c *harness.Cell) {
	hook := func(path, script string, args ...string) specs.Hook {
		return specs.Hook{Path: path, Args: append([]string{"sh", "-c", script}, args...)}
	}
	created := hook(staticShell(t), inContainerScript, "first", "created")
	created.Env = []string{"VAR=value"}
	again := hook(staticShell(t), `read -r state; dir=${state#*\"bundle\":\"}; dir=${dir%%\"*}; echo again >> "$dir/rootfs/root/created"`)
	started := hook("/bin/busybox", `read -r state; echo "$state" > /root/started; echo "$0 $VAR" >> /root/started`, "second")
	started.Env = []string{"VAR=other", "PATH=/bin"}
	inherits := hook("/bin/busybox", `echo of the container: $VAR >> /root/started`)
	container := c.Container(t, harness.Sh("sed 1d /root/created; sed 1d /root/started; head -n 1 /root/created >&2; head -n 1 /root/started >&2"), func(s *specs.Spec) {
		s.Process.Env = append(s.Process.Env, "VAR=its own")
		s.Hooks = &specs.Hooks{CreateContainer: []specs.Hook{created, again}, StartContainer: []specs.Hook{started, inherits}}
	})
	r := container.Run(t, harness.IO{})
	if want := "first value\nagain\nsecond other\nof the container: its own\n"; r.Status != 0 || r.Stdout != want {
		t.Errorf("got %+v, want %q", r, want)
	}
	states := json.NewDecoder(strings.NewReader(r.Stderr))
	for _, status := range []specs.ContainerState{specs.StateCreating, specs.StateCreated} {
		var state specs.State
		if err := states.Decode(&state); err != nil || state.ID != container.ID || state.Status != status || state.Pid == 0 || state.Bundle == "" {
			t.Errorf("the state of a container that is %s: %+v, %v in %q", status, state, err, r.Stderr)
		}
	}
}

// staticShell is a shell on the host that needs no other file.
func staticShell(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// failingHook is a hook that fails, or does not end, and what is said of it.
type failingHook struct {
	hooks specs.Hooks
	says  []string
	// The container ends by itself, and says so on its standard error.
	ends bool
}

// testFailingHooks has hooks of the host fail.
func testFailingHooks(t *testing.T, c *harness.Cell) {
	refuses := []specs.Hook{{Path: script(t, c, "echo this hook refuses >&2; exit 3")}}
	says := []string{"exit status 3", "this hook refuses"}
	checkFailingHooks(t, c, map[string]failingHook{
		//lint:ignore SA1019 deprecated, and what nerdctl attaches its networks with
		"prestart":      {hooks: specs.Hooks{Prestart: refuses}, says: says},
		"createRuntime": {hooks: specs.Hooks{CreateRuntime: refuses}, says: says},
		"poststart":     {hooks: specs.Hooks{Poststart: refuses}, says: says},
	})
}

// testFailingContainerHooks has hooks fail that run in the container's namespaces.
func testFailingContainerHooks(t *testing.T, c *harness.Cell) {
	inside := func(path, script string, timeout *int) []specs.Hook {
		return []specs.Hook{{Path: path, Args: []string{"sh", "-c", script}, Env: []string{"PATH=/bin"}, Timeout: timeout}}
	}
	const refuses = "echo this hook refuses >&2; exit 3"
	second := 1
	checkFailingHooks(t, c, map[string]failingHook{
		"createContainer":         {hooks: specs.Hooks{CreateContainer: inside(staticShell(t), refuses, nil)}, says: []string{"hook #0", "exit status 3", "this hook refuses"}},
		"createContainer timeout": {hooks: specs.Hooks{CreateContainer: inside(staticShell(t), "while :; do :; done", &second)}, says: []string{"hook #0", "1.0s"}},
		"startContainer":          {hooks: specs.Hooks{StartContainer: inside("/bin/sh", refuses, nil)}, says: []string{"hook #0", "exit status 3", "this hook refuses"}, ends: true},
		"startContainer timeout":  {hooks: specs.Hooks{StartContainer: inside("/bin/sh", "exec sleep 1000", &second)}, says: []string{"hook #0", "1.0s"}, ends: true},
		"startContainer missing":  {hooks: specs.Hooks{StartContainer: inside("/no/such/hook", "", nil)}, says: []string{"hook #0", "/no/such/hook: no such file"}, ends: true},
	})
}

// script makes an executable script, which goes with the test.
func script(t *testing.T, c *harness.Cell, text string) (path string) {
	t.Helper()
	path = filepath.Join(hostDir(t, c, map[string]string{"script": "#!/bin/sh\n" + text + "\n"}), "script")
	if err := os.Chmod(path, 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// checkFailingHooks ends containers with the first hook that fails, which the error
// names.
func checkFailingHooks(t *testing.T, c *harness.Cell, tests map[string]failingHook) {
	t.Helper()
	notes, refuses := script(t, c, `cat >>"$1"`), script(t, c, "exit 3")
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			c.CheckLeaks(t)
			stopped := filepath.Join(filepath.Dir(notes), strings.ReplaceAll(name, " ", "-"))
			container := c.Container(t, harness.Sh("echo the program; exec sleep 100000"), func(s *specs.Spec) {
				s.Hooks = &test.hooks
				s.Hooks.Poststop = []specs.Hook{{Path: notes, Args: []string{"notes", stopped}, Env: []string{"PATH=" + os.Getenv("PATH")}}}
				if c.Runtime == harness.RuntimeHyper {
					// Changes nothing for the next, which runc took long to learn.
					s.Hooks.Poststop = append([]specs.Hook{{Path: refuses}}, s.Hooks.Poststop...)
				}
			})
			said := failsToRun(t, container, test.ends)
			for _, want := range test.says {
				if !strings.Contains(said, want) {
					t.Errorf("it says %q, want …%q…", said, want)
				}
			}
			if err := container.Remove(t.Context()); err != nil {
				t.Errorf("removing it: %v", err)
			}
			if state, err := os.ReadFile(stopped); err != nil || strings.Count(string(state), container.ID) == 0 {
				t.Errorf("the poststop hook got %q, %v", state, err)
			}
		})
	}
}

// failsToRun creates and starts a container, and returns what the error says, or
// the container's standard error if it ends by itself, before its program.
func failsToRun(t *testing.T, container *harness.Container, ends bool) string {
	t.Helper()
	task, err := container.TryCreate(t, harness.IO{})
	if err == nil {
		err = task.TryStart(t)
	}
	if !ends {
		if err == nil {
			t.Fatal("it runs")
		}
		return err.Error()
	}
	if err != nil {
		t.Fatalf("it does not start: %v", err)
	}
	r := task.Finish(t)
	if r.Status == 0 || r.Stdout != "" {
		t.Errorf("it ran: %+v", r)
	}
	return r.Stderr
}

// testScriptHook refuses a createContainer hook whose interpreter the guest lacks,
// at once and by its name.
func testScriptHook(t *testing.T, c *harness.Cell) {
	dir := hostDir(t, c, map[string]string{"hook": "#!/bin/sh\ntrue\n"})
	container := c.Container(t, harness.Args("true"), func(s *specs.Spec) {
		s.Hooks = &specs.Hooks{CreateContainer: []specs.Hook{{Path: filepath.Join(dir, "hook")}}}
	})
	_, err := container.TryCreate(t, harness.IO{})
	if err == nil || !strings.Contains(err.Error(), filepath.Join(dir, "hook")+" needs /bin/sh") {
		t.Errorf("got %v", err)
	}
}
