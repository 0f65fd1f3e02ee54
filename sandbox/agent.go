package sandbox

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/cgroups/v3/cgroup2/stats"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/proto"

	"github.com/hyperhq/hyper/proto/channel"
	agentv1 "github.com/hyperhq/hyper/proto/hyper/agent/v1"
)

const (
	// callTimeout bounds a call to the agent, except for a wait.
	callTimeout = 30 * time.Second
	// createTimeout bounds the calls that start programs in the guest, which
	// may read them from slow storage.
	createTimeout = 2 * time.Minute
	// maxErrorText bounds what of an agent's error is passed on, in bytes.
	maxErrorText = 4 << 10
	// maxExitAge is how long ago an exit may have been when it is told: as long as
	// somebody may have left the process's output unread.
	maxExitAge = 7 * 24 * time.Hour
	// maxExitStatus is the largest that a Linux process can have.
	maxExitStatus = 255
)

// agentClient asks the guest's agent and believes nothing: every answer is
// bounded by ttrpc's message size, and checked here before it is used.
type agentClient struct {
	raw agentv1.AgentClient
}

func newAgentClient(ctx context.Context, s *channel.Session) (*agentClient, error) {
	conn, err := s.Open(ctx, channel.Header{Kind: channel.Control})
	if err != nil {
		return nil, err
	}
	client := agentv1.NewAgentClient(ttrpc.NewClient(conn))
	return &agentClient{raw: client}, nil
}

// errNoAnswer says that the agent has had its time.
var errNoAnswer = errors.New("the agent did not answer")

// boundCall bounds a call, and keeps from the guest what containerd says of itself with its
// own: a namespace is nothing that the guest needs, and one more kind of message to code.
func boundCall(ctx context.Context, timeout time.Duration) (context.Context, context.CancelFunc) {
	ctx = ttrpc.WithMetadata(ctx, nil)
	return context.WithTimeoutCause(ctx, timeout, fmt.Errorf("%w within %s", errNoAnswer, timeout))
}

// call makes one call with a deadline and gives errdefs kinds.
func call[Request, Reply any](ctx context.Context, timeout time.Duration, method func(context.Context, Request) (Reply, error), request Request) (Reply, error) {
	ctx, cancel := boundCall(ctx, timeout)
	defer cancel()
	reply, err := method(ctx, request)
	if err != nil {
		return reply, guestError(ctx, err)
	}
	return reply, nil
}

// guestError makes an agent's error one of ours: its kind kept, its text made
// fit to be shown.
func guestError(ctx context.Context, err error) error {
	if errors.Is(err, ttrpc.ErrClosed) {
		return fmt.Errorf("the connection to the agent is closed: %w", errdefs.ErrUnavailable)
	}
	if cause := context.Cause(ctx); cause != nil {
		return fmt.Errorf("%w: %w", cause, errdefs.ErrUnavailable)
	}
	native := errgrpc.ToNative(err)
	return &agentError{text: printable(native.Error(), maxErrorText), kind: errdefs.Resolve(native)}
}

// agentError is what the agent said was wrong.
type agentError struct {
	text string
	kind error
}

func (e *agentError) Error() string { return e.text }
func (e *agentError) Unwrap() error { return e.kind }

func (a *agentClient) configure(ctx context.Context, r *agentv1.ConfigureRequest) (*agentv1.ConfigureResponse, error) {
	return call(ctx, callTimeout, a.raw.Configure, r)
}

func (a *agentClient) setClock(ctx context.Context, r *agentv1.SetClockRequest) error {
	_, err := call(ctx, callTimeout, a.raw.SetClock, r)
	return err
}

// setCPUs returns how many processors the guest says it uses, and if these are not as
// many as asked for, why.
func (a *agentClient) setCPUs(ctx context.Context, count uint32) (have uint32, why string, err error) {
	reply, err := call(ctx, createTimeout, a.raw.SetCPUs, &agentv1.SetCPUsRequest{Count: count})
	return reply.GetCount(), printable(reply.GetWhy(), maxErrorText), err
}

func (a *agentClient) setNetwork(ctx context.Context, r *agentv1.SetNetworkRequest) error {
	_, err := call(ctx, callTimeout, a.raw.SetNetwork, r)
	return err
}

func (a *agentClient) createContainer(ctx context.Context, r *agentv1.CreateContainerRequest) error {
	_, err := call(ctx, createTimeout, a.raw.CreateContainer, r)
	return err
}

func (a *agentClient) prepare(ctx context.Context) error {
	_, err := call(ctx, createTimeout, a.raw.Prepare, &agentv1.PrepareRequest{})
	return err
}

func (a *agentClient) changeVolume(ctx context.Context, r *agentv1.ChangeVolumeRequest) error {
	_, err := call(ctx, callTimeout, a.raw.ChangeVolume, r)
	return err
}

func (a *agentClient) createProcess(ctx context.Context, r *agentv1.CreateProcessRequest) error {
	_, err := call(ctx, callTimeout, a.raw.CreateProcess, r)
	return err
}

func (a *agentClient) start(ctx context.Context, r *agentv1.ProcessRef) error {
	_, err := call(ctx, createTimeout, a.raw.StartProcess, r)
	return err
}

func (a *agentClient) signal(ctx context.Context, r *agentv1.SignalProcessRequest) error {
	_, err := call(ctx, callTimeout, a.raw.SignalProcess, r)
	return err
}

func (a *agentClient) resize(ctx context.Context, r *agentv1.ResizeTerminalRequest) error {
	_, err := call(ctx, callTimeout, a.raw.ResizeTerminal, r)
	return err
}

func (a *agentClient) delete(ctx context.Context, r *agentv1.ProcessRef) error {
	_, err := call(ctx, callTimeout, a.raw.DeleteProcess, r)
	return err
}

func (a *agentClient) pause(ctx context.Context, r *agentv1.ContainerRef) error {
	_, err := call(ctx, callTimeout, a.raw.PauseContainer, r)
	return err
}

func (a *agentClient) resume(ctx context.Context, r *agentv1.ContainerRef) error {
	_, err := call(ctx, callTimeout, a.raw.ResumeContainer, r)
	return err
}

// changed asks whether there is anything to save.
func (a *agentClient) changed(ctx context.Context, r *agentv1.SaveChangesRequest) (bool, error) {
	reply, err := call(ctx, createTimeout, a.raw.SaveChanges, r)
	return reply.GetChanged(), err
}

// saveChanges takes as long as sending what has been written: ctx bounds it.
func (a *agentClient) saveChanges(ctx context.Context, r *agentv1.SaveChangesRequest) error {
	if _, err := a.raw.SaveChanges(ctx, r); err != nil {
		return guestError(ctx, err)
	}
	return nil
}

func (a *agentClient) update(ctx context.Context, r *agentv1.UpdateContainerRequest) error {
	_, err := call(ctx, callTimeout, a.raw.UpdateContainer, r)
	return err
}

func (a *agentClient) pids(ctx context.Context, r *agentv1.ContainerRef) ([]*agentv1.Process, error) {
	reply, err := call(ctx, callTimeout, a.raw.Pids, r)
	return reply.GetProcesses(), err
}

func (a *agentClient) stats(ctx context.Context, r *agentv1.ContainerRef) (*stats.Metrics, error) {
	reply, err := call(ctx, callTimeout, a.raw.Stats, r)
	if err != nil {
		return nil, err
	}
	return decodeMetrics(reply.GetMetrics())
}

// decodeMetrics decodes what a guest says of a container. Fields that this host
// does not know are dropped.
func decodeMetrics(data []byte) (*stats.Metrics, error) {
	var m stats.Metrics
	if err := (proto.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(data, &m); err != nil {
		return nil, fmt.Errorf("the guest's metrics are not decodable: %w: %w", err, errdefs.ErrUnavailable)
	}
	return &m, nil
}

// wait has no deadline: a process may run for years. It ends with ctx or with
// the session.
func (a *agentClient) wait(ctx context.Context, r *agentv1.ProcessRef) (Exit, error) {
	reply, err := a.raw.WaitProcess(ctx, r)
	if err != nil {
		return Exit{}, guestError(ctx, err)
	}
	return validExit(reply, time.Now()), nil
}

// validExit believes a guest's account of an exit as far as it is possible.
func validExit(e *agentv1.Exit, now time.Time) Exit {
	exit := Exit{
		Status:      min(e.GetStatus(), maxExitStatus),
		At:          now,
		StdoutBytes: e.GetStdoutBytes(),
		StderrBytes: e.GetStderrBytes(),
		OOMKilled:   e.GetOomKilled(),
		Unchanged:   e.GetUnchanged(),
	}
	if ago := e.GetAgoUs(); ago < uint64(maxExitAge.Microseconds()) {
		exit.At = now.Add(-time.Duration(ago) * time.Microsecond)
	}
	return exit
}
