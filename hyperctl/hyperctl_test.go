package hyperctl

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/hyperhq/hyper/sandbox/record"
)

// pod makes the run directory of a sandbox whose processes are sleepers. Without a
// start its guest has not answered.
func pod(t *testing.T, root, dir string, start *record.Start) (shim *exec.Cmd) {
	t.Helper()
	below := filepath.Join(root, dir, record.SandboxDir)
	if err := os.MkdirAll(below, 0o700); err != nil {
		t.Fatal(err)
	}
	shim = recorded(t, filepath.Join(root, dir, record.ShimFile), "shim")
	recorded(t, filepath.Join(below, record.PidsFile), "qemu")
	if start != nil {
		if err := start.Write(filepath.Join(below, record.StartFile)); err != nil {
			t.Fatal(err)
		}
	}
	return shim
}

func recorded(t *testing.T, path, name string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("sleep", "600")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	p, err := record.Of(cmd.Process.Pid, name)
	if err != nil {
		t.Fatal(err)
	}
	if err := record.Write(path, []record.Process{p}); err != nil {
		t.Fatal(err)
	}
	return cmd
}

func example(name string) *record.Start {
	return &record.Start{
		Namespace: "k8s.io", Sandbox: name, From: record.Template, Ready: time.Now().Add(-90 * time.Second),
		Phases: map[string]float64{"boot": 125, "machine": 80},
	}
}

// host has a sandbox of each state, and what is none.
func host(t *testing.T) string {
	root := t.TempDir()
	kind := filepath.Join(root, record.PoolDir, "0f")
	for _, dir := range []string{"0.dir", "1.dir"} {
		if err := os.MkdirAll(filepath.Join(kind, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	recorded(t, filepath.Join(kind, "0"), "shim")
	if err := os.WriteFile(filepath.Join(kind, "1"), nil, 0o600); err != nil { // about to be made
		t.Fatal(err)
	}
	pod(t, root, "1-1", example("pod2"))
	pod(t, root, "1-2", example("pod1"))
	pod(t, root, "1-3", nil)
	shim := pod(t, root, "1-4", example("pod3"))
	shim.Process.Kill()
	shim.Wait()
	if err := os.Mkdir(filepath.Join(root, "empty"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "a file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return root
}

func run(t *testing.T, args ...string) string {
	t.Helper()
	var stdout, stderr bytes.Buffer
	if code := Main(append([]string{"hyperctl"}, args...), &stdout, &stderr); code != 0 {
		t.Fatalf("%v exited with %d: %s", args, code, stderr.String())
	}
	return stdout.String()
}

func TestListAsJSON(t *testing.T) {
	var all []sandbox
	if err := json.Unmarshal([]byte(run(t, "--run-dir", host(t), "list", "--json")), &all); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range all {
		got = append(got, s.Name+" "+s.State)
		for _, p := range s.Processes {
			if p.PSS == 0 || p.PSS > 64<<20 || p.CPU < 0 || p.CPU > 60 {
				t.Errorf("a sleeping process uses %+v", p)
			}
		}
		if want := map[string]int{dead: 1, parked: 1}; len(s.Processes) != 2-want[s.State] {
			t.Errorf("the processes of %s, which is %s: %+v", s.Name, s.State, s.Processes)
		}
	}
	if got, want := strings.Join(got, ", "), " starting,  parked, pod1 running, pod2 running, pod3 dead"; got != want {
		t.Errorf("it lists %q, want %q", got, want)
	}
	if all[2].Phases["machine"] != 80 || all[2].From != record.Template {
		t.Errorf("the start of pod1 is %+v", all[2])
	}
}

func TestListAsATable(t *testing.T) {
	lines := strings.Split(run(t, "--run-dir", host(t), "list"), "\n")
	if len(lines) != 7 {
		t.Fatalf("it prints %q", lines)
	}
	for i, want := range [][]string{
		{"NAMESPACE", "SANDBOX", "STATE", "FROM", "START", "MS", "AGE", "SHIM", "QEMU", "PSS", "MIB"},
		{"-", "-", "starting", "-", "-", "-"},
		{"-", "-", "parked", "-", "-", "-"},
		{"k8s.io", "pod1", "running", "template", "125", "1m30s"},
		{"k8s.io", "pod2", "running", "template", "125", "1m30s"},
		{"k8s.io", "pod3", "dead", "template", "125", "1m30s", "-"},
	} {
		got := strings.Fields(lines[i])
		if len(got) < len(want) || strings.Join(got[:len(want)], " ") != strings.Join(want, " ") {
			t.Errorf("line %d is %q, want %q and more", i, got, want)
		}
	}
}

func TestNothingToList(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "missing")
	if got := run(t, "--run-dir", missing, "list", "--json"); got != "[]\n" {
		t.Errorf("no sandboxes are %q", got)
	}
	if got := run(t, "--run-dir", missing, "list"); strings.Count(got, "\n") != 1 {
		t.Errorf("the table of none is %q", got)
	}
}

func TestMetrics(t *testing.T) {
	file := filepath.Join(t.TempDir(), "hyper.prom")
	run(t, "--run-dir", host(t), "metrics", "--output", file)
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]int{
		"hyper_sandboxes": 4, "hyper_sandbox_start_phase_seconds": 6, "hyper_sandbox_ready_timestamp_seconds": 3,
		"hyper_sandbox_process_pss_bytes": 5, "hyper_sandbox_process_cpu_seconds_total": 5,
	} {
		if got := len(families[name].GetMetric()); got != want {
			t.Errorf("%s has %d values, want %d", name, got, want)
		}
	}
	for _, line := range []string{
		`hyper_sandboxes{state="running"} 2`, `hyper_sandboxes{state="dead"} 1`, `hyper_sandboxes{state="starting"} 1`,
		`hyper_sandbox_start_phase_seconds{from="template",namespace="k8s.io",phase="boot",sandbox="pod1"} 0.125`,
	} {
		if !strings.Contains(string(data), line+"\n") {
			t.Errorf("there is no line %s in\n%s", line, data)
		}
	}
	if others, err := filepath.Glob(filepath.Join(filepath.Dir(file), ".*")); err != nil || len(others) > 0 {
		t.Errorf("beside the file there is %v, %v", others, err)
	}
}

// TestADamagedRecordHidesNoOther has the rest printed, and an exit code.
func TestADamagedRecordHidesNoOther(t *testing.T) {
	root := host(t)
	if err := os.WriteFile(filepath.Join(root, "1-1", record.SandboxDir, record.StartFile), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	var stdout, stderr bytes.Buffer
	if code := Main([]string{"hyperctl", "--run-dir", root, "list"}, &stdout, &stderr); code != 1 {
		t.Errorf("the exit code is %d", code)
	}
	if !strings.Contains(stderr.String(), record.StartFile) || !strings.Contains(stdout.String(), "pod1") {
		t.Errorf("it prints %q and the error %q", stdout.String(), stderr.String())
	}
}

func TestUsageErrors(t *testing.T) {
	for _, tc := range []struct {
		args []string
		says string
	}{
		{[]string{"nonsense"}, `no command "nonsense": see hyperctl --help`},
		{[]string{"--nonsense"}, "-nonsense: see hyperctl --help"},
		{[]string{"list", "--nonsense"}, "-nonsense: see hyperctl list --help"},
		{[]string{"list", "c1"}, `no argument "c1": see hyperctl list --help`},
		{[]string{"metrics", "c1"}, `no argument "c1"`},
		{[]string{"metrics", "-o", "/nowhere/at/all"}, "write /nowhere/at/all"},
	} {
		var stdout, stderr bytes.Buffer
		code := Main(append([]string{"hyperctl", "--run-dir", t.TempDir()}, tc.args...), &stdout, &stderr)
		if code != 1 || !strings.Contains(stderr.String(), tc.says) || stdout.Len() != 0 {
			t.Errorf("%v: code %d, error %q, printed %q; want …%s…", tc.args, code, stderr.String(), stdout.String(), tc.says)
		}
	}
}

func TestHelpAndVersion(t *testing.T) {
	for _, tc := range []struct {
		args []string
		says string
	}{{nil, "COMMANDS:"}, {[]string{"--help"}, "hyperctl list --json"}, {[]string{"metrics", "--help"}, "--output FILE"}, {[]string{"--version"}, "hyperctl version "}} {
		var stdout, stderr bytes.Buffer
		code := Main(append([]string{"hyperctl"}, tc.args...), &stdout, &stderr)
		if code != 0 || !strings.Contains(stdout.String(), tc.says) || stderr.Len() != 0 {
			t.Errorf("%v: code %d, error %q, printed %q; want …%s…", tc.args, code, stderr.String(), stdout.String(), tc.says)
		}
	}
}
