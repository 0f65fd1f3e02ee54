package sandbox

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/log"
	"github.com/sirupsen/logrus"

	agentv1 "github.com/hyperhq/hyper/proto/hyper/agent/v1"
)

// kept is a network that is kept what its namespace has until stop, which gives what was
// logged, or the test's end.
func kept(t *testing.T, n *networkTest) (changed chan<- struct{}, stop func() string) {
	t.Helper()
	var logged bytes.Buffer
	logger := logrus.New()
	logger.SetOutput(&logged)
	n.log = log.L.Dup()
	n.log.Logger = logger
	changes := make(chan struct{}, 1)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		n.keep(ctx, changes)
	}()
	stop = func() string {
		cancel()
		<-done
		return logged.String()
	}
	t.Cleanup(func() { stop() })
	return changes, stop
}

// TestNetworkIsTriedAgain has a guest that does not answer for so long that the time for a
// change runs out, more than once.
func TestNetworkIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetworkTest(t)
		starved, told, answered := time.Now().Add(10*time.Minute), 0, time.Time{}
		n.tell = func(ctx context.Context, _ *agentv1.SetNetworkRequest) error {
			told++
			if time.Now().Before(starved) {
				<-ctx.Done()
				return ctx.Err()
			}
			answered = time.Now()
			return nil
		}
		n.add(t, "a")
		changed, stop := kept(t, n)
		changed <- struct{}{}
		time.Sleep(time.Hour)
		logged := stop()
		if answered.IsZero() || answered.Sub(starved) > networkTimeout+longestPause {
			t.Errorf("the guest answers from %v on, and was asked at %v", starved, answered)
		}
		if told < 5 || told > 15 {
			t.Errorf("it was asked %d times in ten minutes", told)
		}
		if got := strings.Count(logged, "could not follow"); got != told-1 {
			t.Errorf("%d failures of %d were logged: %s", got, told-1, logged)
		}
	})
}

// TestNobodyWaitsForCardsThatGo has the guest keep the card of an interface that is gone:
// who starts a container does not wait for it, and it is taken when the guest lets it go.
func TestNobodyWaitsForCardsThatGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetworkTest(t)
		n.add(t, "a", "b")
		n.check(t, "at first", "", "a b", "a b")
		n.machine.hang[macOf("b").String()] = true
		changed, stop := kept(t, n)
		n.remove(t, "b")
		changed <- struct{}{}
		for i := range 3 {
			// In the midst of taking it, and between.
			time.Sleep(time.Duration(7*i+1) * time.Second)
			synctest.Wait()
			begin := time.Now()
			if err := n.sync(t.Context()); err != nil {
				t.Errorf("start %d: %v", i, err)
			}
			if took := time.Since(begin); took > 0 {
				t.Errorf("start %d has waited for %v", i, took)
			}
		}
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		n.machine.mu.Lock()
		if n.machine.asked < 5 || n.machine.asked > 20 {
			t.Errorf("in ten minutes the guest was asked %d times", n.machine.asked)
		}
		delete(n.machine.hang, macOf("b").String())
		n.machine.mu.Unlock()
		time.Sleep(detachTimeout + longestPause)
		logged := stop()
		if !strings.Contains(logged, errStubborn.Error()) || strings.Contains(logged, errGaveWay.Error()) {
			t.Errorf("logged is %s", logged)
		}
		if len(n.machine.has) != 1 {
			t.Errorf("the machine still has %v", n.machine.has)
		}
	})
}

// TestAChangeIsFollowedWhileACardStays has the guest keep a card when another interface
// comes: that one's card does not wait for it.
func TestAChangeIsFollowedWhileACardStays(t *testing.T) {
	n := newNetworkTest(t)
	told := make(chan string, 100)
	n.tell = func(_ context.Context, r *agentv1.SetNetworkRequest) error {
		var names []string
		for _, i := range r.Interfaces {
			names = append(names, i.Name)
		}
		told <- strings.Join(names, " ")
		return nil
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		n.follow(ctx)
	}()
	defer func() {
		cancel()
		<-done
	}()
	next := func(want string) {
		t.Helper()
		late := time.After(detachTimeout / 2)
		for {
			select {
			case got := <-told:
				if got == want {
					return
				}
				// A change of several steps may be seen half-way.
			case <-late:
				t.Fatalf("the guest is not told of %q", want)
			}
		}
	}
	n.add(t, "a", "b")
	next("a b")
	n.machine.mu.Lock()
	n.machine.hang[macOf("b").String()] = true
	n.machine.mu.Unlock()
	n.remove(t, "b")
	next("a")
	n.add(t, "c")
	next("a c")
}
