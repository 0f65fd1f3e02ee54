package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hyperhq/hyper/test/harness"
	"github.com/hyperhq/hyper/test/image"
)

// ctr runs ctr and separates its output from its warnings.
func ctr(t *testing.T, c *harness.Cell, stdin string, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	var out, errs strings.Builder
	cmd := c.CtrCommand(t.Context(), args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	if stdin != "" {
		cmd.Stdin = strings.NewReader(stdin)
	}
	err = c.RunCommand(cmd)
	return out.String(), errs.String(), err
}

// ctrRun is a `ctr run --rm`, and what comes of it.
type ctrRun struct {
	name    string
	flags   []string
	command []string
	want    string
	status  string
	says    string
}

// testCtrRun does what a newcomer does first.
func testCtrRun(t *testing.T, c *harness.Cell) {
	checkCtrRuns(t, c, []ctrRun{
		{name: "output", command: []string{"echo", "hello"}, want: "hello\n"},
		{name: "status", command: []string{"sh", "-c", "echo x; exit 9"}, want: "x\n", status: "exit status 9"},
		{name: "missing command", command: []string{"no-such-command"}, status: "exit status 1", says: `exec: "no-such-command": executable file not found in $PATH`},
	})
}

// testCtrOptions is `ctr run` with options of each kind.
func testCtrOptions(t *testing.T, c *harness.Cell) {
	dir := hostDir(t, c, map[string]string{"file": "from the host\n"})
	log := filepath.Join(dir, "log")
	checkCtrRuns(t, c, []ctrRun{
		{name: "options", flags: []string{"--env", "A=b c", "--cwd", "/tmp", "--read-only", "--hostname", "h"}, command: []string{"sh", "-c", "echo $A; pwd; hostname; touch /x 2>/dev/null || echo ro"}, want: "b c\n/tmp\nh\nro\n"},
		{name: "user", flags: []string{"--user", "1000"}, command: []string{"id", "-u"}, want: "1000\n"},
		{name: "mount", flags: []string{"--mount", "type=bind,src=" + dir + ",dst=/host,options=rbind:ro"}, command: []string{"cat", "/host/file"}, want: "from the host\n"},
		{name: "limits", flags: []string{"--memory-limit", "67108864", "--cpus", "0.5"}, command: []string{"true"}},
		{name: "seccomp", flags: []string{"--seccomp"}, command: []string{"sh", "-c", "sed -n 's/^Seccomp:.//p' /proc/self/status; probe keyring"}, want: "2\noperation not permitted\n"},
		{name: "privileged", flags: []string{"--privileged"}, command: []string{"sh", "-c", "mkdir /tmp/m && mount -t tmpfs none /tmp/m && echo mounted"}, want: "mounted\n"},
		{name: "another snapshotter", flags: []string{"--snapshotter", "native"}, command: []string{"sh", "-c", "echo x > /root/f && cat /root/f"}, want: "x\n"},
		{name: "log file", flags: []string{"--log-uri", "file://" + log}, command: []string{"echo", "to the log"}},
		{name: "no streams", flags: []string{"--null-io"}, command: []string{"echo", "to nobody"}},
	})
	if got, err := os.ReadFile(log); err != nil || string(got) != "to the log\n" {
		t.Errorf("the log has %q, %v", got, err)
	}
}

func checkCtrRuns(t *testing.T, c *harness.Cell, tests []ctrRun) {
	t.Helper()
	for _, test := range tests {
		if version := c.Version; strings.HasPrefix(version, "1.") && strings.Contains(strings.Join(test.flags, " "), "--user") {
			continue // an option that this ctr does not have
		}
		if strings.HasPrefix(c.Version, "1.") {
			test.flags, test.command, test.want = withoutHostname(test.flags, test.command, test.want)
		}
		t.Run(test.name, func(t *testing.T) {
			c.CheckLeaks(t)
			id, err := c.NewID()
			if err != nil {
				t.Fatal(err)
			}
			args := append([]string{"run", "--rm", "--runtime", c.Runtime}, test.flags...)
			for key, value := range c.AlwaysAnnotations() {
				args = append(args, "--annotation", key+"="+value)
			}
			args = append(append(args, image.Name, id), test.command...)
			stdout, stderr, err := ctr(t, c, "", args...)
			status := ""
			if err != nil {
				status = err.Error()
			}
			if stdout != test.want || status != test.status || !strings.Contains(stderr, test.says) {
				t.Errorf("ctr %q: %q, %q, %q; want %q, %q, …%q…", args, stdout, stderr, status, test.want, test.status, test.says)
			}
		})
	}
}

// withoutHostname takes out what ctr 1.6 cannot do.
func withoutHostname(flags, command []string, want string) ([]string, []string, string) {
	if n := len(flags); n > 1 && flags[n-2] == "--hostname" {
		return flags[:n-2], []string{"sh", "-c", strings.ReplaceAll(command[2], "hostname; ", "")}, strings.ReplaceAll(want, "h\n", "")
	}
	return flags, command, want
}

// testCtrTask leads a detached task through its life by ctr's commands.
func testCtrTask(t *testing.T, c *harness.Cell) {
	id, err := c.NewID()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, args := range [][]string{{"task", "kill", "-s", "KILL", id}, {"task", "delete", "-f", id}, {"container", "delete", id}} {
			cmd := c.CtrCommand(t.Context(), args...)
			cmd.Cancel = nil
			c.RunCommand(cmd)
		}
	})
	run := func(want string, args ...string) {
		t.Helper()
		stdout, stderr, err := ctr(t, c, "", args...)
		if err != nil || !strings.Contains(stdout, want) {
			t.Errorf("ctr %q: %q, %q, %v; want …%q…", args, stdout, stderr, err, want)
		}
	}
	run("", "run", "-d", "--runtime", c.Runtime, image.Name, id, "sleep", "1000")
	run("RUNNING", "task", "ls")
	run("hello", "task", "exec", "--exec-id", "e", id, "echo", "hello")
	run("PID", "task", "ps", id)
	run(id, "task", "metrics", id)
	run("", "task", "pause", id)
	run("PAUSED", "task", "ls")
	run("", "task", "resume", id)
	run("", "task", "kill", "-s", "KILL", id)
	run("", "task", "delete", "-f", id)
	run("", "container", "delete", id)
	if stdout, _, _ := ctr(t, c, "", "task", "ls"); strings.Contains(stdout, id) {
		t.Errorf("the task is still there: %s", stdout)
	}
}

// testRuntimeInfo asks the shim what it is.
func testRuntimeInfo(t *testing.T, c *harness.Cell) {
	if strings.HasPrefix(c.Version, "1.") {
		t.Skip("this containerd does not ask for it")
	}
	stdout, stderr, err := ctr(t, c, "", "plugins", "inspect-runtime", "--runtime", c.Runtime)
	if err != nil || !strings.Contains(stdout, c.Runtime) {
		t.Errorf("got %q, %q, %v", stdout, stderr, err)
	}
}
