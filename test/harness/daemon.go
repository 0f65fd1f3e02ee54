package harness

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"text/template"
	"time"

	"golang.org/x/sys/unix"
)

// daemon is one private containerd, which can be ended and started again on
// the same state.
type daemon struct {
	dir    string // everything is below
	bin    string // directory of containerd and ctr
	path   string // of the daemon's environment
	host   *Host  // where it runs, or nil
	reaper *Reaper

	cmd  *exec.Cmd
	done chan struct{} // closed when cmd has ended
	log  *os.File
}

// configuration is what both generations of containerd understand. What is not
// needed is off: it would only look for what is not here, or touch what is not
// ours.
var configuration = template.Must(template.New("config").Parse(`version = {{.Version}}
root = "{{.Dir}}/root"
state = "{{.Dir}}/state"
temp = "{{.Dir}}/tmp"
oom_score = 0
disabled_plugins = [
{{- range .Disabled}}
  "{{.}}",{{end}}
]

[grpc]
  address = "{{.Dir}}/containerd.sock"

[ttrpc]
  address = "{{.Dir}}/containerd.sock.ttrpc"

[debug]
  level = "debug"
{{if ge .Version 3}}
[plugins."io.containerd.shim.v1.manager"]
  socket_dir = "{{.Dir}}/s"
{{end}}`))

func (d *daemon) writeConfig(cri bool) error {
	disabled := []string{
		"io.containerd.internal.v1.opt",
		"io.containerd.snapshotter.v1.aufs",
		"io.containerd.snapshotter.v1.btrfs",
		"io.containerd.snapshotter.v1.devmapper",
		"io.containerd.snapshotter.v1.zfs",
		"io.containerd.tracing.processor.v1.otlp",
	}
	v := 2
	if !strings.HasPrefix(version(filepath.Dir(d.bin)), "1.") {
		v = 3
		disabled = append(disabled,
			"io.containerd.snapshotter.v1.blockfile",
			"io.containerd.snapshotter.v1.erofs",
		)
	}
	if !cri {
		disabled = append(disabled, "io.containerd.grpc.v1.cri")
		if v == 3 {
			disabled = append(disabled,
				"io.containerd.cri.v1.images",
				"io.containerd.cri.v1.runtime",
				"io.containerd.podsandbox.controller.v1.podsandbox",
				"io.containerd.nri.v1.nri",
			)
		}
	}
	var buf bytes.Buffer
	if err := configuration.Execute(&buf, struct {
		Version  int
		Dir      string
		Disabled []string
	}{v, d.dir, disabled}); err != nil {
		return err
	}
	for _, dir := range []string{"root", "state", "tmp", "s"} {
		if err := os.MkdirAll(filepath.Join(d.dir, dir), 0o711); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(d.dir, "config.toml"), buf.Bytes(), 0o644)
}

func (d *daemon) socket() string  { return filepath.Join(d.dir, "containerd.sock") }
func (d *daemon) logPath() string { return filepath.Join(d.dir, "containerd.log") }

// start starts containerd. It may not serve yet when start returns.
func (d *daemon) start() error {
	log, err := os.OpenFile(d.logPath(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	cmd := d.command(context.Background(), filepath.Join(d.bin, "containerd"), "--config", filepath.Join(d.dir, "config.toml"))
	cmd.Stdout, cmd.Stderr = log, log
	// Its own session: an interrupt typed at the terminal is for the test run.
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	if err := d.reaper.Start(cmd); err != nil {
		log.Close()
		return fmt.Errorf("starting containerd: %w", err)
	}
	d.cmd, d.log, d.done = cmd, log, make(chan struct{})
	go func() {
		defer close(d.done)
		d.reaper.Wait(cmd)
		log.Close()
	}()
	return nil
}

// environment is that of containerd, and so of its shims.
func (d *daemon) environment() []string {
	env := slices.DeleteFunc(os.Environ(), func(kv string) bool {
		name, _, _ := strings.Cut(kv, "=")
		return slices.Contains([]string{"PATH", "TMPDIR", "HYPER_CONFIG", "HYPER_RUN_DIR", dirVariable}, name) || strings.HasPrefix(name, "CONTAINERD_")
	})
	return append(env,
		"PATH="+d.path,
		"TMPDIR="+filepath.Join(d.dir, "tmp"),
		// Of its own, so that other runs are not taken for leaks of this one.
		"HYPER_RUN_DIR="+filepath.Join(d.dir, "run"),
		"HYPER_CONFIG="+filepath.Join(d.dir, "hyper.toml"),
		dirVariable+"="+d.dir,
	)
}

// end sends a signal and waits until containerd is gone; one that does not go
// in time is killed, and that is an error.
func (d *daemon) end(sig unix.Signal) error {
	if d.cmd == nil {
		return nil
	}
	if err := d.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("ending containerd: %w", err)
	}
	defer func() { d.cmd = nil }()
	select {
	case <-d.done:
		return nil
	case <-time.After(Slowly(TeardownLimit)):
		d.cmd.Process.Kill()
		<-d.done
		return fmt.Errorf("containerd did not end within %v of signal %d", Slowly(TeardownLimit), sig)
	}
}

// ctr runs the client of this containerd's version, as a user would.
func (d *daemon) ctr(ctx context.Context, namespace string, args ...string) *exec.Cmd {
	args = append([]string{"--address", d.socket(), "--namespace", namespace}, args...)
	return d.command(ctx, filepath.Join(d.bin, "ctr"), args...)
}

// command is a program with the daemon's environment, where the daemon runs.
func (d *daemon) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = d.dir
	cmd.Env = d.environment()
	if d.host != nil {
		d.host.Enter(cmd)
	}
	return cmd
}

// logSize is how long containerd's log is now.
func (d *daemon) logSize() int64 {
	info, err := os.Stat(d.logPath())
	if err != nil {
		return 0
	}
	return info.Size()
}

// logFrom is what has been logged since the log had a size.
func (d *daemon) logFrom(size int64) ([]byte, error) {
	data, err := os.ReadFile(d.logPath())
	if err != nil {
		return nil, fmt.Errorf("reading containerd's log: %w", err)
	}
	return data[min(size, int64(len(data))):], nil
}

// logSince is what has been logged since the log had a size, by containerd and
// its shims, for a person: the daemon's debugging left out, and the end of it
// if it is long, with what was warned of before.
func (d *daemon) logSince(size int64) string {
	data, err := d.logFrom(size)
	if err != nil {
		return err.Error()
	}
	return shortened(string(data))
}

func shortened(text string) string {
	const limit = 32 << 10
	var kept []string
	left := limit
	for _, line := range slices.Backward(slices.Collect(strings.Lines(text))) {
		trouble := strings.Contains(line, "level=warning") || strings.Contains(line, "level=error")
		ours := strings.Contains(line, "runtime=io.containerd.hyper")
		if !trouble && (left < len(line) || strings.Contains(line, "level=debug") && !ours) {
			continue
		}
		left -= len(line)
		kept = append(kept, line)
	}
	slices.Reverse(kept)
	return strings.Join(kept, "")
}
