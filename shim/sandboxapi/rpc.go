package sandboxapi

import (
	"context"
	"fmt"
	"runtime"
	"time"

	api "github.com/containerd/containerd/api/runtime/sandbox/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/log"
	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// The states of a sandbox, as containerd spells them.
const (
	stateReady    = "SANDBOX_READY"
	stateNotReady = "SANDBOX_NOTREADY"
)

// Register serves s as version 1 of the sandbox API.
func Register(server *ttrpc.Server, s *Service) {
	api.RegisterTTRPCSandboxService(server, rpc{s})
}

// rpc are the methods of the sandbox API, in its messages.
type rpc struct{ s *Service }

// request is a message that names a sandbox.
type request interface {
	proto.Message
	GetSandboxID() string
}

// call logs a method and maps its errors.
func call[A any](ctx context.Context, name string, q request, f func(context.Context) (A, error)) (A, error) {
	entry := log.G(ctx).WithField("sandbox", q.GetSandboxID())
	entry.Debugf("%s begins", name)
	answer, err := f(log.WithLogger(ctx, entry))
	if err != nil {
		entry.WithError(err).Debugf("%s failed", name)
		var none A
		return none, errgrpc.ToGRPC(err)
	}
	entry.Debugf("%s is done", name)
	return answer, nil
}

func (r rpc) CreateSandbox(ctx context.Context, q *api.CreateSandboxRequest) (*api.CreateSandboxResponse, error) {
	return call(ctx, "CreateSandbox", q, func(ctx context.Context) (*api.CreateSandboxResponse, error) {
		return &api.CreateSandboxResponse{}, r.s.Create(ctx, q)
	})
}

func (r rpc) StartSandbox(ctx context.Context, q *api.StartSandboxRequest) (*api.StartSandboxResponse, error) {
	return call(ctx, "StartSandbox", q, func(ctx context.Context) (*api.StartSandboxResponse, error) {
		st, err := r.s.Start(ctx, q.SandboxID)
		return &api.StartSandboxResponse{Pid: st.PID, CreatedAt: timestamppb.New(st.CreatedAt)}, err
	})
}

func (r rpc) Platform(ctx context.Context, q *api.PlatformRequest) (*api.PlatformResponse, error) {
	return call(ctx, "Platform", q, func(context.Context) (*api.PlatformResponse, error) {
		_, err := r.s.get(q.SandboxID)
		return &api.PlatformResponse{Platform: &types.Platform{OS: "linux", Architecture: runtime.GOARCH}}, err
	})
}

func (r rpc) StopSandbox(ctx context.Context, q *api.StopSandboxRequest) (*api.StopSandboxResponse, error) {
	return call(ctx, "StopSandbox", q, func(ctx context.Context) (*api.StopSandboxResponse, error) {
		return &api.StopSandboxResponse{}, r.s.Stop(ctx, q.SandboxID, time.Duration(q.TimeoutSecs)*time.Second)
	})
}

func (r rpc) WaitSandbox(ctx context.Context, q *api.WaitSandboxRequest) (*api.WaitSandboxResponse, error) {
	return call(ctx, "WaitSandbox", q, func(ctx context.Context) (*api.WaitSandboxResponse, error) {
		exit, err := r.s.Wait(ctx, q.SandboxID)
		return &api.WaitSandboxResponse{ExitStatus: exit.Status, ExitedAt: timestamppb.New(exit.At)}, err
	})
}

func (r rpc) SandboxStatus(ctx context.Context, q *api.SandboxStatusRequest) (*api.SandboxStatusResponse, error) {
	return call(ctx, "SandboxStatus", q, func(context.Context) (*api.SandboxStatusResponse, error) {
		st, exit, err := r.s.Status(q.SandboxID)
		if err != nil {
			return nil, err
		}
		a := &api.SandboxStatusResponse{
			SandboxID: q.SandboxID,
			Pid:       st.PID,
			State:     stateNotReady,
			CreatedAt: timestamppb.New(st.CreatedAt),
		}
		if st.Ready {
			a.State = stateReady
		}
		if exit != nil {
			a.ExitedAt = timestamppb.New(exit.At)
		}
		if q.Verbose {
			a.Info = st.Info
		}
		return a, nil
	})
}

func (r rpc) PingSandbox(ctx context.Context, q *api.PingRequest) (*api.PingResponse, error) {
	return call(ctx, "PingSandbox", q, func(context.Context) (*api.PingResponse, error) {
		return &api.PingResponse{}, r.s.Ping(q.SandboxID)
	})
}

func (r rpc) ShutdownSandbox(ctx context.Context, q *api.ShutdownSandboxRequest) (*api.ShutdownSandboxResponse, error) {
	return call(ctx, "ShutdownSandbox", q, func(ctx context.Context) (*api.ShutdownSandboxResponse, error) {
		return &api.ShutdownSandboxResponse{}, r.s.Shutdown(ctx, q.SandboxID)
	})
}

func (r rpc) SandboxMetrics(ctx context.Context, q *api.SandboxMetricsRequest) (*api.SandboxMetricsResponse, error) {
	return call(ctx, "SandboxMetrics", q, func(ctx context.Context) (*api.SandboxMetricsResponse, error) {
		m, err := r.s.Metrics(ctx, q.SandboxID)
		if err != nil {
			return nil, err
		}
		data, err := proto.Marshal(m)
		if err != nil {
			return nil, fmt.Errorf("encode the metrics of sandbox %s: %w", q.SandboxID, err)
		}
		return &api.SandboxMetricsResponse{Metrics: &types.Metric{
			Timestamp: timestamppb.Now(),
			ID:        q.SandboxID,
			// As containerd names it: without a host.
			Data: &anypb.Any{TypeUrl: string(m.ProtoReflect().Descriptor().FullName()), Value: data},
		}}, nil
	})
}

func (r rpc) UpdateSandbox(ctx context.Context, q *api.UpdateSandboxRequest) (*api.UpdateSandboxResponse, error) {
	return call(ctx, "UpdateSandbox", q, func(context.Context) (*api.UpdateSandboxResponse, error) {
		return nil, fmt.Errorf("update sandbox %s: %w", q.SandboxID, errdefs.ErrNotImplemented)
	})
}
