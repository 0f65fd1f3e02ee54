package agent

import (
	"fmt"
	"os"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/containerd/errdefs"
)

const (
	// ofContainer begins a namespace's path that names a container instead: its
	// init's namespace is meant.
	ofContainer = "container:"
	// ofPod is the path that means the pod's own namespace, which no container
	// holds.
	ofPod = "pod"
)

// joinContainers replaces the paths in spec that name containers by paths that
// are good until release is called. The namespaces stay those of the same
// processes until then, whatever ends meanwhile.
func (a *Agent) joinContainers(spec *specs.Spec) (release func(), err error) {
	var held []*os.File
	closeAll := func() {
		for _, f := range held {
			f.Close()
		}
	}
	defer func() {
		if err != nil {
			closeAll()
		}
	}()
	for i := range spec.Linux.Namespaces {
		ns := &spec.Linux.Namespaces[i]
		id, ok := strings.CutPrefix(ns.Path, ofContainer)
		if !ok && ns.Path != ofPod {
			continue
		}
		if ns.Type != specs.PIDNamespace {
			return nil, fmt.Errorf("the OCI spec's %s namespace is to be %.140q: only a PID namespace can be another's: %w", ns.Type, ns.Path, errdefs.ErrInvalidArgument)
		}
		open := func() (*os.File, error) { return a.openPIDNamespace(id) }
		if !ok {
			open = a.holder.open
		}
		f, err := open()
		if err != nil {
			return nil, err
		}
		held = append(held, f)
		// libcontainer has a child open it, which does not inherit the descriptor.
		ns.Path = fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), f.Fd())
	}
	return closeAll, nil
}

// openPIDNamespace opens the PID namespace of a container's init.
func (a *Agent) openPIDNamespace(id string) (*os.File, error) {
	c, err := a.container(id)
	if err != nil {
		return nil, fmt.Errorf("joining the PID namespace of another container: %w", err)
	}
	dead := fmt.Errorf("cannot join the PID namespace of container %s: it is not running: %w", id, errdefs.ErrFailedPrecondition)
	state, pid := c.init.current()
	if state == stateStopped || pid == 0 {
		return nil, dead
	}
	f, err := os.Open(fmt.Sprintf("/proc/%d/ns/pid", pid))
	if err != nil {
		return nil, fmt.Errorf("%w (%v)", dead, err)
	}
	// As long as the init can be signalled it has not been waited for, and its
	// pid is no other process's.
	if err := c.init.run.Signal(unix.Signal(0)); err != nil {
		f.Close()
		return nil, fmt.Errorf("%w (%v)", dead, err)
	}
	return f, nil
}
