package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hyperhq/hyper/test/harness"
	"github.com/hyperhq/hyper/test/image"
)

// user is a user of nerdctl, on a host whose containerd is the cell's.
type user struct {
	*harness.Cell
	host *harness.Host
}

// newUser skips the test where there is no nerdctl.
func newUser(t *testing.T, c *harness.Cell) user {
	t.Helper()
	if c.Parts.Nerdctl == "" {
		t.Skip("no nerdctl in the cache: run `make nerdctl`")
	}
	needCNI(t)
	host := c.NewHost(t)
	return user{c.In(t, host), host}
}

func (u user) command(ctx context.Context, args ...string) *exec.Cmd {
	return u.Command(ctx, u.Parts.Nerdctl, append([]string{"--address", u.Socket(), "--namespace", u.Namespace}, args...)...)
}

// try runs nerdctl and returns what it prints.
func (u user) try(t *testing.T, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*harness.Patience)
	defer cancel()
	var out, errs strings.Builder
	cmd := u.command(ctx, args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	err = u.RunCommand(cmd)
	return out.String(), errs.String(), err
}

// do is try for what must not fail.
func (u user) do(t *testing.T, args ...string) string {
	t.Helper()
	stdout, stderr, err := u.try(t, args...)
	if err != nil {
		t.Fatalf("nerdctl %q: %v: %s%s", args, err, stdout, stderr)
	}
	return stdout
}

func (u user) run(args ...string) []string {
	return append([]string{"run", "--pull", "never", "--runtime", u.Runtime}, args...)
}

// checkCopies copies between the host and a container that runs. nerdctl looks for its
// files at the root of its process on the host, which is QEMU's: it finds nothing there,
// whatever the host has at the same path, and can write nothing.
func checkCopies(t *testing.T, u user, name string) {
	t.Helper()
	dir := t.TempDir()
	canary := filepath.Join(dir, "canary")
	if err := os.WriteFile(canary, []byte("of the host"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{canary, "/etc/passwd", "/etc/shadow", "/usr/bin/env"} {
		_, stderr, err := u.try(t, "cp", name+":"+path, filepath.Join(dir, "copy"))
		if err == nil || !strings.Contains(stderr, "source does not exist") {
			t.Errorf("copying %s of the container: %v: %s", path, err, stderr)
		}
		if b, err := os.ReadFile(filepath.Join(dir, "copy")); err == nil {
			t.Errorf("%s of the container is %q", path, b)
		}
	}
	for _, path := range []string{"/written", "/tmp/written", filepath.Join(dir, "written")} {
		_, stderr, err := u.try(t, "cp", canary, name+":"+path)
		if err == nil || !strings.Contains(stderr, "unable to copy") {
			t.Errorf("copying to %s of the container: %v: %s", path, err, stderr)
		}
		if _, err := os.Lstat(path); !os.IsNotExist(err) {
			t.Errorf("%s was written on the host (%v)", path, err)
		}
	}
}

// testNerdctl does what the users of nerdctl do.
func testNerdctl(t *testing.T, c *harness.Cell) {
	u := newUser(t, c)
	if got := u.do(t, u.run("--rm", "--net", "none", image.Name, "sh", "-c", "echo hello; ls /sys/class/net")...); got != "hello\nlo\n" {
		t.Errorf("without a network it prints %q", got)
	}
	if _, stderr, err := u.try(t, u.run("--rm", "--net", "none", image.Name, "sh", "-c", "exit 9")...); err == nil || err.Error() != "exit status 9" {
		t.Errorf("it ends with %v: %s", err, stderr)
	}

	u.do(t, u.run("-d", "--name", "web", "-p", "18080:80", "--memory", "64m", image.Name, "sh", "-c", strings.ReplaceAll(server, "%s", "80"))...)
	t.Cleanup(func() { _, _, _ = u.try(t, "rm", "-f", "web") })
	harness.Eventually(t, harness.Patience, func() error {
		logs, stderr, err := u.try(t, "logs", "web")
		if logs != "serving\n" {
			return fmt.Errorf("logs prints %q, %q, %v", logs, stderr, err)
		}
		return nil
	})
	address := strings.TrimSpace(u.do(t, "inspect", "-f", "{{.NetworkSettings.IPAddress}}", "web"))
	wantPage(t, u.host.NetNS, "tcp4", address+":80")
	wantPage(t, u.host.NetNS, "tcp4", "127.0.0.1:18080")
	if got := u.do(t, "exec", "web", "sh", "-c", "hostname -i; cat /etc/hostname; nproc >/dev/null && echo $HOSTNAME"); !strings.HasPrefix(got, address) {
		t.Errorf("exec prints %q; the address is %s", got, address)
	}
	if got := u.do(t, "stats", "--no-stream", "--format", "{{.Name}} {{.MemUsage}}", "web"); !strings.HasPrefix(got, "web ") || !strings.Contains(got, "/ 64MiB") {
		t.Errorf("stats prints %q", got)
	}
	if got := u.do(t, "ps", "--format", "{{.Names}} {{.Status}} {{.Ports}}"); !strings.HasPrefix(got, "web Up 0.0.0.0:18080->80/tcp") {
		t.Errorf("ps prints %q", got)
	}
	checkCopies(t, u, "web")
	ctx, cancel := context.WithTimeout(t.Context(), 2*harness.Patience)
	defer cancel()
	term := u.AtTerminal(t, 91, 37, u.command(ctx, "exec", "-it", "web", "sh"))
	atPrompt(t, term)
	term.Type(t, "exit 9\r")
	if screen, err := term.Ended(t); err == nil || !strings.Contains(screen, "exit code 9") {
		t.Errorf("exec -it ends with %v: %q", err, screen)
	}
	u.do(t, "stop", "-t", "1", "web")
	if got := u.do(t, "inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", "web"); got != "exited 137\n" {
		t.Errorf("once stopped it is %q", got)
	}
	u.do(t, "start", "web")
	harness.Eventually(t, harness.Patience, func() error {
		if got, err := page(u.host.NetNS, "tcp4", "127.0.0.1:18080"); got != "a page\n" {
			return fmt.Errorf("once started again it serves %q, %v", got, err)
		}
		return nil
	})
	u.do(t, "rm", "-f", "web")
	if got := u.do(t, "ps", "-a", "-q"); got != "" {
		t.Errorf("there still is %q", got)
	}
}
