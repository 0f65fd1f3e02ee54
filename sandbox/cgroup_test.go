package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/hyperhq/hyper/sandbox/cgroup"
	"github.com/hyperhq/hyper/sandbox/factory"
	"github.com/hyperhq/hyper/virtcontainers"
)

// TestTwoSandboxesDoNotShareACgroup gives a second sandbox that of one that lives.
func TestTwoSandboxesDoNotShareACgroup(t *testing.T) {
	path := fmt.Sprintf("/hyper-sandbox-test-%d", os.Getpid())
	if _, err := cgroup.New(path); err != nil {
		t.Skipf("this host has no cgroups: %v", err)
	}
	noMachine := func(context.Context, factory.Spec) error { return errNoMachine }
	first, second := newTestSandbox(t, noMachine), newTestSandbox(t, noMachine)
	if err := first.Boot(t.Context(), BootOptions{Cgroup: path}); !errors.Is(err, errNoMachine) {
		t.Fatal(err)
	}
	joined := ownCgroups(t)
	if !strings.Contains(joined, path) {
		t.Fatalf("the first is in %s", joined)
	}
	second.opts.Config.Sandbox.BootTimeout.Duration = 100 * time.Millisecond
	if err := second.Boot(t.Context(), BootOptions{Cgroup: path}); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), path) {
		t.Errorf("the second boots: %v", err)
	}
	if _, err := os.Stat(filepath.Join(second.opts.Dir, CgroupFile)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("who cleans up after the second finds the first's: %v", err)
	}
	stop(t, second)
	if now := ownCgroups(t); now != joined {
		t.Errorf("when the second has ended the first is in %s", now)
	}
	stop(t, first)
	if now := ownCgroups(t); strings.Contains(now, path) {
		t.Errorf("when both have ended they are in %s", now)
	}
}

// watchedVM is a machine that is looked at when it is killed, and stays.
type watchedVM struct {
	virtcontainers.VM
	killed func()
}

func (w watchedVM) Kill(context.Context) error {
	w.killed()
	return errNoMachine
}

// TestWhoIsKilledHasLeftTheCgroup kills a machine as is done when its guest hangs up.
func TestWhoIsKilledHasLeftTheCgroup(t *testing.T) {
	path := fmt.Sprintf("/hyper-sandbox-test-%d", os.Getpid())
	if _, err := cgroup.New(path); err != nil {
		t.Skipf("this host has no cgroups: %v", err)
	}
	s := newTestSandbox(t, nil)
	g := newGuest(s, hardware{pod: virtcontainers.Pod{Cgroup: path}})
	if err := g.joinCgroup(t.Context()); err != nil {
		t.Fatal(err)
	}
	var then string
	g.machine = &factory.Machine{VM: watchedVM{killed: func() { then = ownCgroups(t) }}}
	g.kill()
	if then == "" || strings.Contains(then, path) {
		t.Errorf("when the machine is killed its processes are in %q", then)
	}
	if err := g.cgroup.Remove(t.Context()); err != nil {
		t.Error(err)
	}
}

// ownCgroups is where this process is.
func ownCgroups(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
