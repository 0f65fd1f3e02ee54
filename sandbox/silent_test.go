package sandbox

import (
	"cmp"
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	agentv1 "github.com/hyperhq/hyper/proto/hyper/agent/v1"
	"github.com/hyperhq/hyper/sandbox/factory"
)

// silentAgent answers nothing.
type silentAgent struct{ agentv1.AgentClient }

func (silentAgent) SignalProcess(ctx context.Context, _ *agentv1.SignalProcessRequest) (*agentv1.SignalProcessResponse, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// idleAgent says yes to a signal and does nothing, and deletes nothing.
type idleAgent struct{ agentv1.AgentClient }

func (idleAgent) SignalProcess(context.Context, *agentv1.SignalProcessRequest) (*agentv1.SignalProcessResponse, error) {
	return &agentv1.SignalProcessResponse{}, nil
}

func (idleAgent) DeleteProcess(context.Context, *agentv1.ProcessRef) (*agentv1.DeleteProcessResponse, error) {
	return nil, errors.New("no")
}

// TestAKillThatIsNotHeededEndsTheMachine kills containers of a guest that says that it has.
func TestAKillThatIsNotHeededEndsTheMachine(t *testing.T) {
	s := newTestSandbox(t, nil)
	for name, ends := range map[string]bool{"it goes on": false, "it ends": true} {
		synctest.Test(t, func(t *testing.T) {
			killed := make(chan struct{})
			g := newGuest(s, hardware{})
			g.machine = &factory.Machine{VM: watchedVM{killed: func() { close(killed) }}}
			g.agent = &agentClient{raw: idleAgent{}}
			alone := &Sandbox{log: s.log, life: t.Context()}
			p := &Process{container: &Container{id: "c", sandbox: alone, guest: g, log: s.log, spec: &specs.Spec{}}, state: Running, done: make(chan struct{})}
			for range 2 {
				if err := p.Signal(t.Context(), uint32(unix.SIGKILL)); err != nil {
					t.Fatal(err)
				}
			}
			if ends {
				close(p.done)
			}
			alone.tasks.Wait()
			select {
			case <-killed:
				if ends {
					t.Errorf("%s: the machine is killed", name)
				}
			default:
				if !ends {
					t.Errorf("%s: the machine lives", name)
				}
			}
		})
	}
}

func TestAGuestThatDeletesNothingIsLeftAlone(t *testing.T) {
	s := newTestSandbox(t, nil)
	agent := &agentClient{raw: idleAgent{}}
	c := &Container{id: "c", sandbox: s, log: s.log}
	for n := range maxDeletions {
		if err := c.deleteInGuest(t.Context(), agent); (err == nil) != (n == maxDeletions-1) {
			t.Errorf("asked %d times: %v", n+1, err)
		}
	}
	c.guest = newGuest(s, hardware{})
	c.guest.agent, c.guest.machine = agent, &factory.Machine{}
	c.execs = map[string]*Process{"e": {id: "e", container: c, state: Stopped}, "made": {id: "made", container: c, state: Created}}
	for id, gone := range map[string]bool{"e": true, "made": false} {
		if err := c.execs[id].Delete(t.Context()); (err == nil) != gone {
			t.Errorf("exec %s: %v", id, err)
		}
	}
	if len(c.execs) != 1 {
		t.Errorf("%d execs are left", len(c.execs))
	}
}

// TestASilentGuestCanBeKilled sends signals to processes of a guest that does not answer.
func TestASilentGuestCanBeKilled(t *testing.T) {
	kill, term := uint32(unix.SIGKILL), uint32(unix.SIGTERM)
	for name, c := range map[string]struct {
		exec    string
		signal  uint32
		timeout time.Duration // of who asks
		beside  bool          // another container runs for an hour
		killed  time.Duration // 0: never
	}{
		"a container":                   {"", kill, time.Hour, false, callTimeout},
		"a container that may go on":    {"", term, time.Hour, false, 0},
		"an exec":                       {"e", kill, time.Hour, false, 0},
		"by somebody who does not wait": {"", kill, time.Second, false, deathTimeout + time.Second},
		"a container beside another":    {"", kill, time.Hour, true, time.Hour + deathTimeout + callTimeout},
	} {
		s := newTestSandbox(t, nil)
		synctest.Test(t, func(t *testing.T) {
			begin, killed := time.Now(), time.Duration(0)
			life, end := context.WithCancel(t.Context())
			own := &Sandbox{log: s.log, life: life, containers: map[string]*Container{}}
			g := newGuest(s, hardware{})
			g.machine = &factory.Machine{VM: watchedVM{killed: func() { killed = cmp.Or(killed, time.Since(begin)) }}}
			g.agent = &agentClient{raw: silentAgent{}}
			container := func(id, exec string) *Process {
				p := &Process{id: exec, state: Running, done: make(chan struct{})}
				p.container = &Container{id: id, sandbox: own, guest: g, log: s.log, spec: &specs.Spec{}, init: p, created: true}
				own.containers[id] = p.container
				return p
			}
			p := container("c", c.exec)
			if c.beside {
				other := container("other", "")
				time.AfterFunc(time.Hour+time.Minute, func() {
					other.mu.Lock()
					defer other.mu.Unlock()
					other.state = Stopped
				})
			}
			ctx, cancel := context.WithTimeout(t.Context(), c.timeout)
			defer cancel()
			err := p.Signal(ctx, c.signal)
			if took := time.Since(begin); took > callTimeout {
				t.Errorf("%s: that took %v", name, took)
			}
			if (err == nil) != (c.killed == callTimeout) {
				t.Errorf("%s: %v", name, err)
			}
			if err != nil && !errdefs.IsUnavailable(err) && !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s: %v", name, err)
			}
			time.Sleep(2 * time.Hour)
			end()
			own.tasks.Wait()
			if killed.Round(time.Minute) != c.killed.Round(time.Minute) {
				t.Errorf("%s: the machine is killed after %v, want %v", name, killed, c.killed)
			}
		})
	}
}
