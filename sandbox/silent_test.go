package sandbox

import (
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

// TestASilentGuestCanBeKilled sends signals to processes of a guest that does not answer.
func TestASilentGuestCanBeKilled(t *testing.T) {
	kill, term := uint32(unix.SIGKILL), uint32(unix.SIGTERM)
	for name, c := range map[string]struct {
		exec    string
		signal  uint32
		timeout time.Duration // of who asks
		killed  bool
	}{
		"a container":                   {"", kill, time.Hour, true},
		"a container that may go on":    {"", term, time.Hour, false},
		"an exec":                       {"e", kill, time.Hour, false},
		"by somebody who does not wait": {"", kill, time.Second, false},
	} {
		s := newTestSandbox(t, nil)
		synctest.Test(t, func(t *testing.T) {
			killed := false
			g := newGuest(s, hardware{})
			g.machine = &factory.Machine{VM: watchedVM{killed: func() { killed = true }}}
			g.agent = &agentClient{raw: silentAgent{}}
			p := &Process{id: c.exec, container: &Container{id: "c", sandbox: s, guest: g, log: s.log, spec: &specs.Spec{}}, state: Running}
			ctx, cancel := context.WithTimeout(t.Context(), c.timeout)
			defer cancel()
			begin := time.Now()
			err := p.Signal(ctx, c.signal)
			if killed != c.killed || (err == nil) != c.killed {
				t.Errorf("%s: the machine is killed: %v, %v", name, killed, err)
			}
			if err != nil && !errdefs.IsUnavailable(err) && !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s: %v", name, err)
			}
			if took := time.Since(begin); took > callTimeout {
				t.Errorf("%s: that took %v", name, took)
			}
		})
	}
}
