package pool

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/hyperhq/hyper/sandbox/record"
)

const testKey = "key"

// busy is a pool in which a key is started so often that as many are wanted as there
// may be.
func busy(t *testing.T, limits Limits) *Pool {
	t.Helper()
	// Short, for sockets.
	root, err := os.MkdirTemp("", "pool")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(root) })
	p := New(root)
	for range 4 {
		if _, err := p.Note(testKey, limits); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

func take(t *testing.T, p *Pool, l Limits) *Place {
	t.Helper()
	place, err := p.Take(testKey, l)
	if err != nil {
		t.Fatal(err)
	}
	if place == nil {
		t.Fatal("there is no place")
	}
	t.Cleanup(func() {
		if err := place.Leave(); err != nil {
			t.Error(err)
		}
	})
	return place
}

func TestNoteAsksForMoreFromTheSecondStartOn(t *testing.T) {
	p, l := New(t.TempDir()), Limits{Max: 1, Window: time.Hour}
	for i, want := range []bool{false, true, true} {
		if more, err := p.Note(testKey, l); err != nil || more != want {
			t.Errorf("start %d: %v, %v", i, more, err)
		}
	}
	take(t, p, l)
	if more, err := p.Note(testKey, l); err != nil || more {
		t.Errorf("one waits, and more are wanted: %v, %v", more, err)
	}
}

func TestPlacesAreBounded(t *testing.T) {
	l := Limits{Max: 2, Window: time.Hour}
	p := busy(t, l)
	first := take(t, p, l)
	take(t, p, l)
	if place, err := p.Take(testKey, l); place != nil || err != nil {
		t.Fatalf("a third place: %+v, %v", place, err)
	}
	if err := first.Leave(); err != nil {
		t.Fatal(err)
	}
	take(t, p, l)
}

func TestFailureIsRemembered(t *testing.T) {
	l := Limits{Max: 2, Window: time.Hour}
	p := busy(t, l)
	place := take(t, p, l)
	if err := errors.Join(place.Failed(errors.New("no machine")), place.Leave()); err != nil {
		t.Fatal(err)
	}
	if more, err := p.Note(testKey, l); more || err != nil {
		t.Errorf("another is wanted: %v, %v", more, err)
	}
	if place, err := p.Take(testKey, l); place != nil || err != nil {
		t.Errorf("there is a place: %+v, %v", place, err)
	}
}

// TestNothingIsLeft leaves places, of a key whose starts are forgotten by then.
func TestNothingIsLeft(t *testing.T) {
	l := Limits{Max: 2, Window: time.Hour}
	p := busy(t, l)
	place := take(t, p, l)
	waits, err := place.Listen()
	if err != nil {
		t.Fatal(err)
	}
	place.window = 1 // a nanosecond
	if err := errors.Join(waits.Close(), place.Leave(), place.Leave()); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(p.dir); err != nil || len(left) > 0 {
		t.Errorf("left are %v, %v", left, err)
	}
}

// TestDeadAreSwept has a place of a process that is gone, and processes of it that are
// not.
func TestDeadAreSwept(t *testing.T) {
	l := Limits{Max: 1, Window: time.Hour}
	p := busy(t, l)
	sleep := exec.Command("sleep", "1000")
	if err := sleep.Start(); err != nil {
		t.Fatal(err)
	}
	gone := make(chan error, 1)
	go func() { gone <- sleep.Wait() }()
	defer sleep.Process.Kill()
	r, err := record.Of(sleep.Process.Pid, "sleep")
	if err != nil {
		t.Fatal(err)
	}
	dead := filepath.Join(p.home("another"), "0")
	for path, text := range map[string]string{dead: r.String() + "\n", dead + socketExt: ""} {
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := p.Note(testKey, l); err != nil {
		t.Fatal(err)
	}
	select {
	case <-gone:
	case <-time.After(10 * time.Second):
		t.Error("its process lives")
	}
	if _, err := os.Stat(p.home("another")); !os.IsNotExist(err) {
		t.Errorf("its directory is there: %v", err)
	}
}

// TestClaimRace has many claim the only one who waits: one gets it, and the others are
// told so soon.
func TestClaimRace(t *testing.T) {
	l := Limits{Max: 1, Window: time.Hour}
	p := busy(t, l)
	place := take(t, p, l)
	waits, err := place.Listen()
	if err != nil {
		t.Fatal(err)
	}
	defer waits.Close()
	const claimers = 8
	var won atomic.Int64
	var all sync.WaitGroup
	socket := testSocket(t)
	for i := range claimers {
		all.Go(func() {
			conn, err := p.Find(testKey)
			if err != nil {
				return
			}
			c, err := Ask(conn, Claim{Key: testKey, ID: fmt.Sprint(i)}, socket)
			if err != nil {
				if !errdefs.IsUnavailable(err) {
					t.Errorf("claim %d: %v", i, err)
				}
				return
			}
			defer c.Close()
			if c.PID != os.Getpid() {
				t.Errorf("claimed process %d", c.PID)
			}
			if err := c.Confirm(); err != nil {
				t.Errorf("claim %d: %v", i, err)
			}
			won.Add(1)
		})
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	claim, got, err := waits.Accept(ctx, func(Claim) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	if err := waits.Close(); err != nil {
		t.Error(err)
	}
	all.Wait()
	if won.Load() != 1 {
		t.Errorf("%d have won", won.Load())
	}
	checkSocket(t, got, socket)
	if claim.Key != testKey {
		t.Errorf("claimed was %+v", claim)
	}
}

// TestRefusedClaims has claims that are for another, that check refuses, and that nobody
// confirms.
func TestRefusedClaims(t *testing.T) {
	l := Limits{Max: 1, Window: time.Hour}
	p := busy(t, l)
	place := take(t, p, l)
	waits, err := place.Listen()
	if err != nil {
		t.Fatal(err)
	}
	defer waits.Close()
	done := make(chan error, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	go func() {
		_, _, err := waits.Accept(ctx, func(c Claim) error {
			if c.ID == "stale" {
				return errors.New("all has changed")
			}
			return nil
		})
		done <- err
	}()
	socket := testSocket(t)
	ask := func(key, id string) (*Claimed, error) {
		conn, err := p.Find(testKey)
		if err != nil {
			t.Fatal(err)
		}
		return Ask(conn, Claim{Key: key, ID: id}, socket)
	}
	if _, err := ask("another", "x"); !errdefs.IsUnavailable(err) {
		t.Errorf("a claim for another: %v", err)
	}
	silent, err := ask(testKey, "silent")
	if err != nil {
		t.Fatalf("after a claim for another: %v", err)
	}
	silent.Close()
	if _, err := ask(testKey, "stale"); !errdefs.IsUnavailable(err) {
		t.Errorf("a claim of what has changed: %v", err)
	}
	if err := <-done; !errors.Is(err, errRefused) {
		t.Errorf("it waited on, or ended with %v", err)
	}
}

func TestFindNobody(t *testing.T) {
	p := New(t.TempDir())
	if _, err := p.Find(testKey); !errdefs.IsNotFound(err) {
		t.Errorf("in no pool: %v", err)
	}
	// One that was killed has left its socket.
	if err := os.MkdirAll(p.home(testKey), 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(p.home(testKey), "0.sock"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	if _, err := p.Find(testKey); !errdefs.IsNotFound(err) {
		t.Errorf("of the dead: %v", err)
	}
}

func TestAcceptEndsWithItsContext(t *testing.T) {
	l := Limits{Max: 1, Window: time.Hour}
	waits, err := take(t, busy(t, l), l).Listen()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if _, _, err := waits.Accept(ctx, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("it ended with %v", err)
	}
}

func testSocket(t *testing.T) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "socket"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func checkSocket(t *testing.T, got, want *os.File) {
	t.Helper()
	defer got.Close()
	a, err1 := got.Stat()
	b, err2 := want.Stat()
	if err1 != nil || err2 != nil || !os.SameFile(a, b) {
		t.Errorf("another file was handed over: %v, %v", err1, err2)
	}
}

// TestAPoolThatIsHeldIsNotAwaitedForEver has somebody hold the pool who does not go on.
func TestAPoolThatIsHeldIsNotAwaitedForEver(t *testing.T) {
	p := New(t.TempDir())
	unlock, err := p.lock()
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		if _, err := p.Note("key", Limits{}); !errors.Is(err, unix.EWOULDBLOCK) {
			t.Errorf("noting a start: %v", err)
		}
		if took := time.Since(begin); took < lockTimeout || took > 2*lockTimeout {
			t.Errorf("that took %v", took)
		}
	})
	time.AfterFunc(4*lockInterval, unlock)
	again, err := p.lock()
	if err != nil {
		t.Fatal(err)
	}
	again()
}

// TestAPlaceIsReleasedWhileThePoolIsHeld has somebody hold the pool while a place is given
// up: that does not wait, and then the place is free, with what it has recorded alive.
func TestAPlaceIsReleasedWhileThePoolIsHeld(t *testing.T) {
	l := Limits{Max: 1, Window: time.Hour}
	p := busy(t, l)
	place := take(t, p, l)
	sleep := exec.Command("sleep", "1000")
	if err := sleep.Start(); err != nil {
		t.Fatal(err)
	}
	defer sleep.Process.Kill()
	r, err := record.Of(sleep.Process.Pid, "sleep")
	if err != nil {
		t.Fatal(err)
	}
	waits, err := place.Listen()
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(place.Record([]record.Process{r}), waits.Close()); err != nil {
		t.Fatal(err)
	}
	unlock, err := p.lock()
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		if err := place.Release(); err != nil {
			t.Error(err)
		}
		if took := time.Since(begin); took > 0 {
			t.Errorf("it has waited for %v", took)
		}
		if err := place.Leave(); !errors.Is(err, unix.EWOULDBLOCK) {
			t.Errorf("leaving it: %v", err)
		}
	})
	unlock()
	next := take(t, p, l)
	if l, err := next.Listen(); err != nil {
		t.Error(err)
	} else if err := l.Close(); err != nil {
		t.Error(err)
	}
	if err := place.Leave(); err != nil {
		t.Errorf("leaving it again: %v", err)
	}
	if again, err := p.Take(testKey, l); again != nil || err != nil {
		t.Errorf("the next one's place was left with it: %+v, %v", again, err)
	}
	// Whoever sweeps kills by SIGKILL.
	if err := sleep.Process.Signal(unix.SIGTERM); err != nil {
		t.Error(err)
	}
	if err := sleep.Wait(); err == nil || err.Error() != "signal: terminated" {
		t.Errorf("what it has recorded: %v", err)
	}
}
