package shim

import (
	"context"
	"os"
	"strconv"

	"github.com/containerd/log"

	"github.com/hyperhq/hyper/config"
	"github.com/hyperhq/hyper/sandbox"
	"github.com/hyperhq/hyper/sandbox/cgroup"
	"github.com/hyperhq/hyper/shim/sandboxapi"
	"github.com/hyperhq/hyper/shim/task"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// opener makes the function that makes the server's sandbox. isolated is why
// the server must not have one. Errors are told there, and not when the server
// starts, so that they reach the user as the answer to Create. mounts is the mount
// namespace that containerd runs the shim in.
func opener(i invocation, dir runDir, isolated error, mounts *os.File) func() (pod, error) {
	return func() (pod, error) {
		if isolated != nil {
			return pod{}, isolated
		}
		c, err := config.Load()
		if err != nil {
			return pod{}, err
		}
		o := sandbox.Options{ID: i.ID, Namespace: i.Namespace, Dir: dir.sandbox(), Config: c}
		if c.Template.Enable {
			// Now, before the sandbox joins the pod's.
			if home, err := cgroup.Here(); err == nil {
				o.BuildTemplate = (&builder{invocation: i, mounts: mounts, home: home}).begin
			} else {
				log.L.WithError(err).Warn("no templates will be built")
			}
		}
		s, err := sandbox.New(o)
		return pod{s}, err
	}
}

// pod is a sandbox as the task service wants it; it only converts types.
type pod struct{ *sandbox.Sandbox }

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
	return container{c, init}, nil
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
	init *sandbox.Process
}

func (c container) Init() task.Process { return process{c.init} }

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
