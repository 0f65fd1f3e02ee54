package cgroup

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestAGroupIsOneSandboxs has a second sandbox given the group of one that lives, and what
// cleans up after the second.
func TestAGroupIsOneSandboxs(t *testing.T) {
	g := testGroup(t)
	first := startJoiner(t, g.path, time.Second)
	if word := first.word(); word != "<nil>" {
		t.Fatal(word)
	}
	second := startJoiner(t, g.path, 5*removeInterval)
	if word := second.word(); !strings.Contains(word, g.path) || !strings.Contains(word, "another sandbox") {
		t.Errorf("the second joins: %s", word)
	}
	_ = second.end()
	if err := g.Remove(t.Context()); err != nil {
		t.Errorf("cleaning up after the second: %v", err)
	}
	g.checkIn(t, first.Process.Pid)
	if err := first.end(); err != nil {
		t.Error(err)
	}
	g.checkGone(t)
}

// TestJoinAwaitsTheEndOfAnother makes a sandbox again while the one before still ends.
func TestJoinAwaitsTheEndOfAnother(t *testing.T) {
	g := testGroup(t)
	first := startJoiner(t, g.path, time.Second)
	if word := first.word(); word != "<nil>" {
		t.Fatal(word)
	}
	second := startJoiner(t, g.path, 10*time.Second)
	if err := first.end(); err != nil {
		t.Fatal(err)
	}
	if word := second.word(); word != "<nil>" {
		t.Fatal(word)
	}
	g.checkIn(t, second.Process.Pid)
	if err := second.end(); err != nil {
		t.Error(err)
	}
	g.checkGone(t)
}

// TestAGroupThatIsRemovedUnderItsJoinerIsMadeAgain has somebody remove the group whenever
// nobody is in it, as who cleans up after a killed shim may.
func TestAGroupThatIsRemovedUnderItsJoinerIsMadeAgain(t *testing.T) {
	g := testGroup(t)
	ctx, stop := context.WithCancel(t.Context())
	var remover sync.WaitGroup
	remover.Go(func() {
		for ctx.Err() == nil {
			for _, h := range g.hierarchies {
				os.Remove(h.dir(g.path))
				time.Sleep(200 * time.Microsecond) // else nobody would ever get in
			}
		}
	})
	defer remover.Wait()
	defer stop()
	for range 20 {
		j := startJoiner(t, g.path, 10*time.Second)
		if word := j.word(); word != "<nil>" {
			t.Fatal(word)
		}
		g.checkIn(t, j.Process.Pid)
		if err := j.end(); err != nil {
			t.Error(err)
		}
	}
}

// TestAClaimIsTriedAgain removes what the group is made in, as who leaves it may, in a
// made-up hierarchy.
func TestAClaimIsTriedAgain(t *testing.T) {
	h := hierarchy{mount: filepath.Join(t.TempDir(), "removed")}
	g := &Group{hierarchies: []hierarchy{h}, path: "/pod"}
	ctx, cancel := context.WithTimeout(t.Context(), 2*removeInterval)
	defer cancel()
	if err := g.awaitClaim(ctx); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("of what stays away: %v", err)
	}
	time.AfterFunc(5*removeInterval, func() {
		if err := os.Mkdir(h.mount, 0o755); err != nil {
			t.Error(err)
		}
	})
	if err := g.awaitClaim(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := g.release(); err != nil {
		t.Error(err)
	}
}

// putIn starts a process of somebody else's in the group.
func putIn(t *testing.T, g *Group) *exec.Cmd {
	t.Helper()
	sleep := exec.Command("sleep", "100")
	if err := sleep.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		sleep.Process.Kill()
		sleep.Wait()
		for _, h := range g.hierarchies {
			if err := h.remove(t.Context(), g.path, true); err != nil {
				t.Log(err) // of a context that has ended: it was moved out, or never there
			}
		}
	})
	if err := g.Add(sleep.Process.Pid); err != nil {
		t.Fatal(err)
	}
	return sleep
}

func TestAGroupWithOthersIsNotJoined(t *testing.T) {
	g := testGroup(t)
	for _, h := range g.hierarchies { // as somebody would who has it ready
		if err := h.make(g.path); err != nil {
			t.Fatal(err)
		}
	}
	other := putIn(t, g)
	j := startJoiner(t, g.path, 5*removeInterval)
	if word := j.word(); !strings.Contains(word, g.path) || !strings.Contains(word, strconv.Itoa(other.Process.Pid)+" sleep") {
		t.Errorf("it joins: %s", word)
	}
	_ = j.end()
	g.checkIn(t, other.Process.Pid)
}

func TestAGroupThatIsThereIsJoined(t *testing.T) {
	g := testGroup(t)
	for _, h := range g.hierarchies {
		if err := h.make(g.path); err != nil {
			t.Fatal(err)
		}
	}
	j := startJoiner(t, g.path, time.Second)
	if word := j.word(); word != "<nil>" {
		t.Fatal(word)
	}
	if err := j.end(); err != nil {
		t.Error(err)
	}
	g.checkGone(t)
}

// TestWhatAKilledShimLeavesIsRemoved kills who has the group, and leaves one that it has
// started.
func TestWhatAKilledShimLeavesIsRemoved(t *testing.T) {
	g := testGroup(t)
	j := startJoiner(t, g.path, time.Second)
	if word := j.word(); word != "<nil>" {
		t.Fatal(word)
	}
	left := putIn(t, g)
	if err := j.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = j.Wait()
	if err := g.Remove(t.Context()); err != nil {
		t.Error(err)
	}
	g.checkGone(t)
	if _, lives := look(left.Process.Pid); !lives {
		t.Error("it is killed")
	}
}

// TestAClaimOfNobodyInTheGroupDelaysItsRemoval has the group of a shim that was killed and
// moved out, and does not die.
func TestAClaimOfNobodyInTheGroupDelaysItsRemoval(t *testing.T) {
	g := testGroup(t)
	dying := &Group{hierarchies: g.hierarchies, path: g.path}
	if err := dying.awaitClaim(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer dying.release()
	ctx, cancel := context.WithTimeout(t.Context(), 5*removeInterval)
	defer cancel()
	if err := g.Remove(ctx); err != nil {
		t.Error(err)
	}
	if ctx.Err() == nil {
		t.Error("it was not waited for")
	}
	g.checkGone(t)
}

// TestWhatIsNotClaimedIsNotEmptied removes a group that is no more in the first hierarchy,
// and is another's in the next: as one may be that has joined meanwhile.
func TestWhatIsNotClaimedIsNotEmptied(t *testing.T) {
	g := testGroup(t)
	if len(g.hierarchies) < 2 {
		t.Skip("this host has one hierarchy only")
	}
	rest := &Group{hierarchies: g.hierarchies[1:], path: g.path}
	for _, h := range rest.hierarchies {
		if err := h.make(g.path); err != nil {
			t.Fatal(err)
		}
	}
	other := putIn(t, rest)
	if err := g.Remove(t.Context()); err != nil {
		t.Error(err)
	}
	rest.checkIn(t, other.Process.Pid)
	for _, h := range rest.hierarchies {
		if _, err := h.empty(g.path, everyone); err != nil {
			t.Error(err)
		}
	}
	if err := g.Remove(t.Context()); err != nil {
		t.Errorf("when it is empty: %v", err)
	}
	g.checkGone(t)
}

// TestSeveralRemoveAGroup ends a sandbox twice at once.
func TestSeveralRemoveAGroup(t *testing.T) {
	g := testGroup(t)
	if err := g.awaitClaim(t.Context()); err != nil {
		t.Fatal(err)
	}
	var both sync.WaitGroup
	for range 2 {
		both.Go(func() {
			if err := g.Remove(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	both.Wait()
	g.checkGone(t)
}

func TestDying(t *testing.T) {
	const stat = "77 (a) b) S 1 77 77 0 -1 %s 0"
	at := func(flags string) string { return strings.Replace(stat, "%s", flags, 1) }
	const lives = "Name:\ta\nState:\tS (sleeping)\nSigPnd:\t0000000000000000\nShdPnd:\t0000000000004000\n"
	for name, c := range map[string]struct {
		status, stat string
		want         bool
	}{
		"lives":        {lives, at("4194560"), false},
		"exiting":      {lives, at("4194564"), true},
		"killed":       {strings.Replace(lives, "0000000000004000", "0000000000000100", 1), at("0"), true},
		"thread":       {strings.Replace(lives, "SigPnd:\t0000000000000000", "SigPnd:\t0000000000000100", 1), at("0"), true},
		"zombie":       {strings.Replace(lives, "S (", "Z (", 1), at("0"), true},
		"nothing said": {"", "", false},
	} {
		if got := dying(c.status, c.stat); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
