package shim

import (
	"context"
	"os"
	"strconv"
	"sync"

	"github.com/containerd/log"

	"github.com/hyperhq/hyper/config"
	"github.com/hyperhq/hyper/sandbox"
	"github.com/hyperhq/hyper/sandbox/cgroup"
	"github.com/hyperhq/hyper/sandbox/factory"
	"github.com/hyperhq/hyper/shim/sandboxapi"
	"github.com/hyperhq/hyper/shim/task"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// opener makes the server's sandbox. Errors are told there, and not when the server
// starts, so that they reach the user as the answer to Create.
type opener struct {
	invocation invocation
	dir        runDir
	isolated   error // why the server must not have a sandbox, or nil
	load       func() (*config.Config, error)
	mounts     *os.File        // the mount namespace that containerd runs the shim in
	parked     *sandbox.Parked // or nil
	refills    sync.WaitGroup  // the starts of other machines, for others
	ending     <-chan struct{} // closed when the server's end has begun
}

func (o *opener) open() (pod, error) {
	if o.isolated != nil {
		return pod{}, o.isolated
	}
	c, err := o.load()
	if err != nil {
		return pod{}, err
	}
	i := o.invocation
	so := sandbox.Options{ID: i.ID, Namespace: i.Namespace, Dir: o.dir.sandbox(), Config: c, Parked: o.parked}
	p := pod{started: func() {}}
	// Now, before the sandbox joins the pod's.
	if home, err := cgroup.Here(); err == nil {
		out := &outside{invocation: i, mounts: o.mounts, home: home}
		so.BuildImage = func(lower []string) error { return out.start(imageAction, imageRequest{Lower: lower}, 0) }
		if c.Template.Enable {
			so.BuildTemplate = func(kind factory.Kind) error { return out.start(buildAction, kind, 0) }
			p.started = sync.OnceFunc(func() { o.refill(out, c) })
		}
	} else {
		log.L.WithError(err).Warn("no templates and images of layers will be built")
	}
	p.Sandbox, err = sandbox.New(so)
	return p, err
}

// pod is a sandbox as the task service wants it; it only converts types.
type pod struct {
	*sandbox.Sandbox
	// started is told of each container that was started.
	started func()
}

func (p pod) CreateContainer(ctx context.Context, o task.ContainerOptions) (task.Container, error) {
	c, err := p.Sandbox.CreateContainer(ctx, sandbox.ContainerOptions{
		ID: o.ID, Bundle: o.Bundle, Rootfs: o.Rootfs, Stdio: sandbox.Stdio(o.Streams),
	})
	if err != nil {
		return nil, err
	}
	init, err := c.Process("")
	if err != nil {
		return nil, err
	}
	return container{c, init, p.started}, nil
}

// podSandbox is a sandbox as the sandbox service wants it.
type podSandbox struct{ pod }

func (p podSandbox) Status() sandboxapi.Status {
	st := p.Sandbox.Status()
	version, _ := buildVersion()
	info := map[string]string{"runtime": Name + " " + version}
	if st.Size.VCPUs != 0 {
		info["vcpus"] = strconv.FormatUint(uint64(st.Size.VCPUs), 10)
		info["memory_mib"] = strconv.FormatUint(st.Size.MemoryMiB, 10)
	}
	if st.Kernel != "" {
		info["kernel"], info["agent"] = st.Kernel, st.Agent
	}
	return sandboxapi.Status{Ready: st.Ready, PID: uint32(st.PID), CreatedAt: st.CreatedAt, Info: info}
}

func (p podSandbox) Exit() sandboxapi.Exit {
	e := p.Sandbox.Exit()
	return sandboxapi.Exit{Status: e.Status, At: e.At}
}

type container struct {
	*sandbox.Container
	init    *sandbox.Process
	started func()
}

func (c container) Init() task.Process { return firstProcess{process{c.init}, c.started} }

// firstProcess is a container's init.
type firstProcess struct {
	process
	started func()
}

func (p firstProcess) Start(ctx context.Context) error {
	err := p.process.Start(ctx)
	if err == nil {
		p.started()
	}
	return err
}

func (c container) Exec(ctx context.Context, id string, spec *specs.Process, s task.Streams) (task.Process, error) {
	p, err := c.Container.Exec(ctx, sandbox.ExecOptions{ID: id, Spec: spec, Stdio: sandbox.Stdio(s)})
	if err != nil {
		return nil, err
	}
	return process{p}, nil
}

func (c container) Pids(ctx context.Context) ([]task.ProcessInfo, error) {
	ps, err := c.Container.Pids(ctx)
	if err != nil {
		return nil, err
	}
	infos := make([]task.ProcessInfo, 0, len(ps))
	for _, p := range ps {
		infos = append(infos, task.ProcessInfo(p))
	}
	return infos, nil
}

type process struct{ *sandbox.Process }

func (p process) State() task.State {
	switch p.Process.State() {
	case sandbox.Created:
		return task.Created
	case sandbox.Running:
		return task.Running
	case sandbox.Paused:
		return task.Paused
	}
	return task.Stopped
}

func (p process) Exit() task.Exit {
	e := p.Process.Exit()
	return task.Exit{Status: e.Status, At: e.At, StdoutBytes: e.StdoutBytes, StderrBytes: e.StderrBytes}
}
