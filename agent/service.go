package agent

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/containerd/errdefs"

	agentv1 "github.com/hyperhq/hyper/proto/hyper/agent/v1"
)

// service is the API as one session sees it. Its methods only translate.
type service struct {
	agent   *Agent
	streams *streams
}

var _ agentv1.AgentService = (*service)(nil)

func (s *service) Configure(ctx context.Context, req *agentv1.ConfigureRequest) (*agentv1.ConfigureResponse, error) {
	return s.agent.configure(ctx, req)
}

func (s *service) SetClock(_ context.Context, req *agentv1.SetClockRequest) (*agentv1.SetClockResponse, error) {
	return &agentv1.SetClockResponse{}, setClock(req.GetNow())
}

func (s *service) SetCPUs(ctx context.Context, req *agentv1.SetCPUsRequest) (*agentv1.SetCPUsResponse, error) {
	if err := s.agent.booted(ctx); err != nil {
		return nil, err
	}
	count, why, err := s.agent.cpus.set(ctx, req.GetCount())
	return &agentv1.SetCPUsResponse{Count: count, Why: why}, err
}

func (s *service) CreateContainer(ctx context.Context, req *agentv1.CreateContainerRequest) (*agentv1.CreateContainerResponse, error) {
	c, err := s.agent.createContainer(ctx, s.streams, req)
	if err != nil {
		return nil, err
	}
	_, pid := c.init.current()
	return &agentv1.CreateContainerResponse{Pid: uint32(pid)}, nil
}

func (s *service) CreateProcess(ctx context.Context, req *agentv1.CreateProcessRequest) (*agentv1.CreateProcessResponse, error) {
	c, err := s.agent.container(req.GetContainerId())
	if err != nil {
		return nil, err
	}
	if err := validateID("exec id", req.GetExecId()); err != nil {
		return nil, err
	}
	spec, err := decodeProcess(req.GetProcess())
	if err != nil {
		return nil, err
	}
	io, err := claimStdio(ctx, s.streams, req.GetStreams())
	if err != nil {
		return nil, err
	}
	return &agentv1.CreateProcessResponse{}, c.addExec(req.GetExecId(), spec, io)
}

func (s *service) StartProcess(ctx context.Context, req *agentv1.ProcessRef) (*agentv1.StartProcessResponse, error) {
	p, err := s.agent.process(req.GetContainerId(), req.GetExecId())
	if err != nil {
		return nil, err
	}
	if p.execID == "" {
		err = p.container.startContainer(ctx)
	} else {
		err = p.container.startExec(ctx, p)
	}
	if err != nil {
		return nil, err
	}
	_, pid := p.current()
	return &agentv1.StartProcessResponse{Pid: uint32(pid)}, nil
}

func (s *service) WaitProcess(ctx context.Context, req *agentv1.ProcessRef) (*agentv1.Exit, error) {
	p, err := s.agent.process(req.GetContainerId(), req.GetExecId())
	if err != nil {
		return nil, err
	}
	e, sent, err := p.wait(ctx)
	if err != nil {
		return nil, err
	}
	return &agentv1.Exit{
		Status: e.status, AgoUs: uint64(max(time.Since(e.at), 0).Microseconds()), OomKilled: e.oomKilled,
		StdoutBytes: sent[0], StderrBytes: sent[1],
		Unchanged: p.execID == "" && p.container.unchanged(),
	}, nil
}

func (s *service) SignalProcess(_ context.Context, req *agentv1.SignalProcessRequest) (*agentv1.SignalProcessResponse, error) {
	if req.GetSignal() < 1 || req.GetSignal() > 64 {
		return nil, fmt.Errorf("signal %d: want 1 to 64: %w", req.GetSignal(), errdefs.ErrInvalidArgument)
	}
	p, err := s.agent.process(req.GetContainerId(), req.GetExecId())
	if err != nil {
		return nil, err
	}
	sig := unix.Signal(req.GetSignal())
	switch {
	case req.GetAll():
		err = p.container.signalAll(sig)
	case p.execID == "":
		err = p.container.signalInit(sig)
	default:
		err = p.signal(sig)
	}
	return &agentv1.SignalProcessResponse{}, err
}

func (s *service) ResizeTerminal(_ context.Context, req *agentv1.ResizeTerminalRequest) (*agentv1.ResizeTerminalResponse, error) {
	p, err := s.agent.process(req.GetContainerId(), req.GetExecId())
	if err != nil {
		return nil, err
	}
	return &agentv1.ResizeTerminalResponse{}, p.resize(req.GetWidth(), req.GetHeight())
}

func (s *service) DeleteProcess(ctx context.Context, req *agentv1.ProcessRef) (*agentv1.DeleteProcessResponse, error) {
	p, err := s.agent.process(req.GetContainerId(), req.GetExecId())
	if err != nil {
		return nil, err
	}
	if p.execID == "" {
		err = s.agent.deleteContainer(ctx, p.container)
	} else {
		err = p.container.deleteExec(ctx, p.execID)
	}
	return &agentv1.DeleteProcessResponse{}, err
}

func (s *service) PauseContainer(ctx context.Context, req *agentv1.ContainerRef) (*agentv1.PauseContainerResponse, error) {
	c, err := s.agent.container(req.GetContainerId())
	if err != nil {
		return nil, err
	}
	return &agentv1.PauseContainerResponse{}, c.pause(ctx)
}

func (s *service) ResumeContainer(ctx context.Context, req *agentv1.ContainerRef) (*agentv1.ResumeContainerResponse, error) {
	c, err := s.agent.container(req.GetContainerId())
	if err != nil {
		return nil, err
	}
	return &agentv1.ResumeContainerResponse{}, c.resume(ctx)
}

func (s *service) UpdateContainer(ctx context.Context, req *agentv1.UpdateContainerRequest) (*agentv1.UpdateContainerResponse, error) {
	c, err := s.agent.container(req.GetContainerId())
	if err != nil {
		return nil, err
	}
	return &agentv1.UpdateContainerResponse{}, c.update(ctx, req.GetResources())
}

func (s *service) Prepare(ctx context.Context, _ *agentv1.PrepareRequest) (*agentv1.PrepareResponse, error) {
	return &agentv1.PrepareResponse{}, s.agent.prepareNext(ctx)
}

func (s *service) SaveChanges(ctx context.Context, req *agentv1.SaveChangesRequest) (*agentv1.SaveChangesResponse, error) {
	c, err := s.agent.container(req.GetContainerId())
	if err != nil {
		return nil, err
	}
	changed, err := c.saveChanges(ctx, s.streams, req.GetStream())
	return &agentv1.SaveChangesResponse{Changed: changed}, err
}

func (s *service) Stats(_ context.Context, req *agentv1.ContainerRef) (*agentv1.StatsResponse, error) {
	if req.GetContainerId() == "" {
		metrics, err := guestStats()
		return &agentv1.StatsResponse{Metrics: metrics}, err
	}
	c, err := s.agent.container(req.GetContainerId())
	if err != nil {
		return nil, err
	}
	metrics, err := c.stats()
	return &agentv1.StatsResponse{Metrics: metrics}, err
}

func (s *service) Pids(_ context.Context, req *agentv1.ContainerRef) (*agentv1.PidsResponse, error) {
	c, err := s.agent.container(req.GetContainerId())
	if err != nil {
		return nil, err
	}
	processes, err := c.processes()
	return &agentv1.PidsResponse{Processes: processes}, err
}

func (s *service) ChangeVolume(ctx context.Context, req *agentv1.ChangeVolumeRequest) (*agentv1.ChangeVolumeResponse, error) {
	if err := s.agent.booted(ctx); err != nil {
		return nil, err
	}
	return &agentv1.ChangeVolumeResponse{}, s.agent.volumes.change(req)
}

func (s *service) Events(ctx context.Context, _ *agentv1.EventsRequest, stream agentv1.Agent_EventsServer) error {
	return toStatus(s.agent.events.forward(ctx, stream.Send))
}

func (s *service) SetNetwork(ctx context.Context, req *agentv1.SetNetworkRequest) (*agentv1.SetNetworkResponse, error) {
	return &agentv1.SetNetworkResponse{}, s.agent.network.set(ctx, req)
}
