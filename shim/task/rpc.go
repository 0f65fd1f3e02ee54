package task

import (
	"context"
	"fmt"
	"os"

	api "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/api/types/task"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/log"
	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// Register serves s as versions 2 and 3 of the task API. Their messages are the
// same on the wire, so one table of methods serves both.
func Register(server *ttrpc.Server, s *Service) {
	desc := &ttrpc.ServiceDesc{Methods: methods(s)}
	server.RegisterService("containerd.task.v2.Task", desc)
	server.RegisterService("containerd.task.v3.Task", desc)
	server.RegisterService(removeService, &ttrpc.ServiceDesc{Methods: map[string]ttrpc.Method{
		removeMethod: method(removeMethod, rpc{s}.remove),
	}})
}

// The service by which our own delete asks a server to remove a task.
const (
	removeService = "hyper.shim.v1.Shim"
	removeMethod  = "Remove"
)

// Remove calls Service.RemoveAmong in the server at the other end of client.
func Remove(ctx context.Context, client *ttrpc.Client, id string) (*api.DeleteResponse, error) {
	r := &api.DeleteResponse{}
	if err := client.Call(ctx, removeService, removeMethod, &api.DeleteRequest{ID: id}, r); err != nil {
		return nil, errgrpc.ToNative(err)
	}
	return r, nil
}

func (r rpc) remove(ctx context.Context, q *api.DeleteRequest) (*api.DeleteResponse, error) {
	exit, pid, err := r.s.RemoveAmong(ctx, q.ID)
	if err != nil {
		return nil, err
	}
	return deleted(exit, pid), nil
}

func deleted(e Exit, pid uint32) *api.DeleteResponse {
	return &api.DeleteResponse{Pid: pid, ExitStatus: e.Status, ExitedAt: timestamppb.New(e.At)}
}

func methods(s *Service) map[string]ttrpc.Method {
	r := rpc{s}
	return map[string]ttrpc.Method{
		"State":      method("State", r.state),
		"Create":     method("Create", r.create),
		"Start":      method("Start", r.start),
		"Delete":     method("Delete", r.delete),
		"Pids":       method("Pids", r.pids),
		"Pause":      method("Pause", r.pause),
		"Resume":     method("Resume", r.resume),
		"Checkpoint": method("Checkpoint", r.checkpoint),
		"Kill":       method("Kill", r.kill),
		"Exec":       method("Exec", r.exec),
		"ResizePty":  method("ResizePty", r.resize),
		"CloseIO":    method("CloseIO", r.closeIO),
		"Update":     method("Update", r.update),
		"Wait":       method("Wait", r.wait),
		"Stats":      method("Stats", r.stats),
		"Connect":    method("Connect", r.connect),
		"Shutdown":   method("Shutdown", r.shutdown),
	}
}

// request is a message that names a task.
type request[T any] interface {
	*T
	proto.Message
	GetID() string
}

// method makes an RPC method of f: it decodes, logs and maps errors.
func method[T any, R request[T], A proto.Message](name string, f func(context.Context, R) (A, error)) ttrpc.Method {
	return func(ctx context.Context, unmarshal func(any) error) (any, error) {
		r := R(new(T))
		if err := unmarshal(r); err != nil {
			return nil, errgrpc.ToGRPC(fmt.Errorf("decode the request of %s: %w: %w", name, err, errdefs.ErrInvalidArgument))
		}
		entry := log.G(ctx).WithField("task", r.GetID())
		entry.Debugf("%s begins", name)
		answer, err := f(log.WithLogger(ctx, entry), r)
		if err != nil {
			entry.WithError(err).Debugf("%s failed", name)
			return nil, errgrpc.ToGRPC(err)
		}
		entry.Debugf("%s is done", name)
		return answer, nil
	}
}

// rpc are the methods of the task API, in its messages.
type rpc struct{ s *Service }

func empty(err error) (*emptypb.Empty, error) { return &emptypb.Empty{}, err }

func (r rpc) create(ctx context.Context, q *api.CreateTaskRequest) (*api.CreateTaskResponse, error) {
	pid, err := r.s.Create(ctx, q)
	return &api.CreateTaskResponse{Pid: pid}, err
}

func (r rpc) start(ctx context.Context, q *api.StartRequest) (*api.StartResponse, error) {
	pid, err := r.s.Start(ctx, q.ID, q.ExecID)
	return &api.StartResponse{Pid: pid}, err
}

func (r rpc) exec(ctx context.Context, q *api.ExecProcessRequest) (*emptypb.Empty, error) {
	return empty(r.s.Exec(ctx, q))
}

func (r rpc) delete(ctx context.Context, q *api.DeleteRequest) (*api.DeleteResponse, error) {
	exit, pid, err := r.s.Delete(ctx, q.ID, q.ExecID)
	if err != nil {
		return nil, err
	}
	return deleted(exit, pid), nil
}

func (r rpc) state(_ context.Context, q *api.StateRequest) (*api.StateResponse, error) {
	st, err := r.s.State(q.ID, q.ExecID)
	if err != nil {
		return nil, err
	}
	a := &api.StateResponse{
		ID:       q.ID,
		Bundle:   st.Bundle,
		Pid:      st.PID,
		Status:   status(st.State),
		Stdin:    st.Stdio.Stdin,
		Stdout:   st.Stdio.Stdout,
		Stderr:   st.Stdio.Stderr,
		Terminal: st.Stdio.Terminal,
		ExecID:   q.ExecID,
	}
	if st.State == Stopped {
		a.ExitStatus, a.ExitedAt = st.Exit.Status, timestamppb.New(st.Exit.At)
	}
	return a, nil
}

func status(s State) task.Status {
	switch s {
	case Created:
		return task.Status_CREATED
	case Running:
		return task.Status_RUNNING
	case Paused:
		return task.Status_PAUSED
	case Stopped:
		return task.Status_STOPPED
	}
	return task.Status_UNKNOWN
}

func (r rpc) wait(ctx context.Context, q *api.WaitRequest) (*api.WaitResponse, error) {
	exit, err := r.s.Wait(ctx, q.ID, q.ExecID)
	if err != nil {
		return nil, err
	}
	return &api.WaitResponse{ExitStatus: exit.Status, ExitedAt: timestamppb.New(exit.At)}, nil
}

func (r rpc) kill(ctx context.Context, q *api.KillRequest) (*emptypb.Empty, error) {
	return empty(r.s.Kill(ctx, q.ID, q.ExecID, q.Signal, q.All))
}

func (r rpc) resize(ctx context.Context, q *api.ResizePtyRequest) (*emptypb.Empty, error) {
	return empty(r.s.Resize(ctx, q.ID, q.ExecID, q.Width, q.Height))
}

func (r rpc) closeIO(_ context.Context, q *api.CloseIORequest) (*emptypb.Empty, error) {
	if !q.Stdin {
		return empty(fmt.Errorf("close the streams of task %s: only stdin can be closed: %w", q.ID, errdefs.ErrInvalidArgument))
	}
	return empty(r.s.CloseStdin(q.ID, q.ExecID))
}

func (r rpc) pause(ctx context.Context, q *api.PauseRequest) (*emptypb.Empty, error) {
	return empty(r.s.Pause(ctx, q.ID))
}

func (r rpc) resume(ctx context.Context, q *api.ResumeRequest) (*emptypb.Empty, error) {
	return empty(r.s.Resume(ctx, q.ID))
}

func (r rpc) update(ctx context.Context, q *api.UpdateTaskRequest) (*emptypb.Empty, error) {
	return empty(r.s.Update(ctx, q.ID, q.Resources.GetValue()))
}

func (r rpc) checkpoint(_ context.Context, q *api.CheckpointTaskRequest) (*emptypb.Empty, error) {
	return empty(fmt.Errorf("checkpoint task %s: %w", q.ID, errdefs.ErrNotImplemented))
}

func (r rpc) stats(ctx context.Context, q *api.StatsRequest) (*api.StatsResponse, error) {
	m, err := r.s.Stats(ctx, q.ID)
	if err != nil {
		return nil, err
	}
	a, err := encode(m)
	return &api.StatsResponse{Stats: a}, err
}

func (r rpc) pids(ctx context.Context, q *api.PidsRequest) (*api.PidsResponse, error) {
	ps, err := r.s.Pids(ctx, q.ID)
	if err != nil {
		return nil, err
	}
	a := &api.PidsResponse{}
	for _, p := range ps {
		info := &task.ProcessInfo{Pid: p.PID}
		if p.ExecID != "" {
			if info.Info, err = encode(&options.ProcessDetails{ExecID: p.ExecID}); err != nil {
				return nil, err
			}
		}
		a.Processes = append(a.Processes, info)
	}
	return a, nil
}

func (r rpc) connect(_ context.Context, q *api.ConnectRequest) (*api.ConnectResponse, error) {
	return &api.ConnectResponse{ShimPid: uint32(os.Getpid()), TaskPid: r.s.PID(q.ID)}, nil
}

func (r rpc) shutdown(_ context.Context, q *api.ShutdownRequest) (*emptypb.Empty, error) {
	r.s.Shutdown(q.ID)
	return empty(nil)
}

// encode wraps m as containerd does: the type's name without a host.
func encode(m proto.Message) (*anypb.Any, error) {
	value, err := proto.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", m.ProtoReflect().Descriptor().FullName(), err)
	}
	return &anypb.Any{TypeUrl: string(m.ProtoReflect().Descriptor().FullName()), Value: value}, nil
}
