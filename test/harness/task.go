package harness

import (
	"context"
	"fmt"
	"time"

	tasksapi "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/errdefs/pkg/errgrpc"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/types/known/anypb"
)

// Task is a process that containerd knows: a container's init, or an exec.
type Task struct {
	Container *Container
	ExecID    string // empty for the init
	PID       uint32
	*Streams
}

// Create creates the container's task and fails the test if it cannot.
func (c *Container) Create(t T, streams IO) *Task {
	t.Helper()
	task, err := c.TryCreate(t, streams)
	if err != nil {
		t.Fatalf("creating the task of %s: %v", c.ID, err)
	}
	return task
}

// TryCreate creates the container's task.
func (c *Container) TryCreate(t T, streams IO) (*Task, error) {
	t.Helper()
	task := &Task{Container: c, Streams: newStreams(t, c.Cell, c.ID, streams)}
	ctx, cancel := request(t)
	defer cancel()
	reply, err := c.Cell.client.tasks.Create(ctx, &tasksapi.CreateTaskRequest{
		ContainerID: c.ID, Rootfs: c.rootfs, Terminal: streams.Terminal,
		Stdin: task.stdin, Stdout: task.stdout, Stderr: task.stderr,
	})
	if err != nil {
		task.abandon()
		return nil, errgrpc.ToNative(err)
	}
	task.PID = reply.Pid
	task.begin(func() error { return task.CloseIO(context.Background()) })
	return task, nil
}

// Command is what an exec runs.
type Command struct {
	ID      string // made up if empty
	Args    []string
	Changes func(*specs.Process) // of the init's process, or nil
}

// Exec adds a process to the container and fails the test if it cannot. It does
// not start it.
func (p *Task) Exec(t T, command Command, streams IO) *Task {
	t.Helper()
	task, err := p.TryExec(t, command, streams)
	if err != nil {
		t.Fatalf("adding the process %q to %s: %v", command.Args, p.Container.ID, err)
	}
	return task
}

// TryExec adds a process to the container.
func (p *Task) TryExec(t T, command Command, streams IO) (*Task, error) {
	t.Helper()
	c := p.Container
	if command.ID == "" {
		command.ID = fmt.Sprintf("e%d", c.Cell.serial.Add(1))
	}
	spec := *c.Spec.Process
	spec.Args, spec.Terminal = command.Args, streams.Terminal
	if command.Changes != nil {
		command.Changes(&spec)
	}
	encoded, err := asAny("Process", spec)
	if err != nil {
		return nil, err
	}
	task := &Task{Container: c, ExecID: command.ID, Streams: newStreams(t, c.Cell, c.ID+"-"+command.ID, streams)}
	ctx, cancel := request(t)
	defer cancel()
	_, err = c.Cell.client.tasks.Exec(ctx, &tasksapi.ExecProcessRequest{
		ContainerID: c.ID, ExecID: command.ID, Terminal: streams.Terminal, Spec: encoded,
		Stdin: task.stdin, Stdout: task.stdout, Stderr: task.stderr,
	})
	if err != nil {
		task.abandon()
		return nil, errgrpc.ToNative(err)
	}
	task.begin(func() error { return task.CloseIO(context.Background()) })
	return task, nil
}

// Shell runs a script by the container's shell as an exec, to its end.
func (p *Task) Shell(t T, script string) Result {
	t.Helper()
	return p.Do(t, "sh", "-c", script)
}

// Do runs a command as an exec, to its end.
func (p *Task) Do(t T, args ...string) Result {
	t.Helper()
	added := p.Exec(t, Command{Args: args}, IO{})
	added.Start(t)
	return added.Finish(t)
}

// Start starts the process and fails the test if it cannot.
func (p *Task) Start(t T) {
	t.Helper()
	if err := p.TryStart(t); err != nil {
		t.Fatalf("starting %s: %v", p.name(), err)
	}
}

// TryStart starts the process.
func (p *Task) TryStart(t T) error {
	ctx, cancel := request(t)
	defer cancel()
	reply, err := p.tasks().Start(ctx, &tasksapi.StartRequest{ContainerID: p.Container.ID, ExecID: p.ExecID})
	if err != nil {
		return errgrpc.ToNative(err)
	}
	p.PID = reply.Pid
	return nil
}

// Exit is how a process ended.
type Exit struct {
	Status uint32
	At     time.Time
}

// Wait waits until the process has ended; if it has not in time, the test fails.
func (p *Task) Wait(t T, limit time.Duration) Exit {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	reply, err := p.tasks().Wait(ctx, &tasksapi.WaitRequest{ContainerID: p.Container.ID, ExecID: p.ExecID})
	if err != nil {
		t.Fatalf("waiting for %s: %v", p.name(), errgrpc.ToNative(err))
	}
	return Exit{Status: reply.ExitStatus, At: reply.ExitedAt.AsTime()}
}

// Finish waits until the process has ended, deletes it, and returns what became
// of it, with everything it wrote.
func (p *Task) Finish(t T) Result {
	t.Helper()
	exit := p.Wait(t, patienceOf(t))
	deleted := p.Delete(t)
	if deleted.Status != exit.Status || !deleted.At.Equal(exit.At) {
		t.Fatalf("%s: wait says it exited %d at %v, delete says %d at %v", p.name(), exit.Status, exit.At, deleted.Status, deleted.At)
	}
	stdout, stderr := p.Collect(t)
	return Result{Status: exit.Status, Stdout: stdout, Stderr: stderr}
}

// Delete deletes the process and fails the test if it cannot.
func (p *Task) Delete(t T) Exit {
	t.Helper()
	exit, err := p.TryDelete(t)
	if err != nil {
		t.Fatalf("deleting %s: %v", p.name(), err)
	}
	return exit
}

// TryDelete deletes the process.
func (p *Task) TryDelete(t T) (Exit, error) {
	ctx, cancel := request(t)
	defer cancel()
	var reply *tasksapi.DeleteResponse
	var err error
	if p.ExecID == "" {
		reply, err = p.tasks().Delete(ctx, &tasksapi.DeleteTaskRequest{ContainerID: p.Container.ID})
	} else {
		reply, err = p.tasks().DeleteProcess(ctx, &tasksapi.DeleteProcessRequest{ContainerID: p.Container.ID, ExecID: p.ExecID})
	}
	if err != nil {
		return Exit{}, errgrpc.ToNative(err)
	}
	return Exit{Status: reply.ExitStatus, At: reply.ExitedAt.AsTime()}, nil
}

// Kill sends a signal to the process, or with all to every one of the container.
func (p *Task) Kill(t T, signal uint32, all bool) error {
	ctx, cancel := request(t)
	defer cancel()
	_, err := p.tasks().Kill(ctx, &tasksapi.KillRequest{ContainerID: p.Container.ID, ExecID: p.ExecID, Signal: signal, All: all})
	return errgrpc.ToNative(err)
}

// State asks for the process's state.
func (p *Task) State(t T) (*tasktypes.Process, error) {
	ctx, cancel := request(t)
	defer cancel()
	reply, err := p.tasks().Get(ctx, &tasksapi.GetRequest{ContainerID: p.Container.ID, ExecID: p.ExecID})
	if err != nil {
		return nil, errgrpc.ToNative(err)
	}
	return reply.Process, nil
}

// CloseIO closes the process's standard input.
func (p *Task) CloseIO(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, Slowly(Patience))
	defer cancel()
	_, err := p.tasks().CloseIO(ctx, &tasksapi.CloseIORequest{ContainerID: p.Container.ID, ExecID: p.ExecID, Stdin: true})
	return errgrpc.ToNative(err)
}

// Resize sets the size of the process's terminal.
func (p *Task) Resize(t T, width, height uint32) error {
	ctx, cancel := request(t)
	defer cancel()
	_, err := p.tasks().ResizePty(ctx, &tasksapi.ResizePtyRequest{ContainerID: p.Container.ID, ExecID: p.ExecID, Width: width, Height: height})
	return errgrpc.ToNative(err)
}

// Pause stops all processes of the container; Resume lets them go on.
func (p *Task) Pause(t T) error {
	ctx, cancel := request(t)
	defer cancel()
	_, err := p.tasks().Pause(ctx, &tasksapi.PauseTaskRequest{ContainerID: p.Container.ID})
	return errgrpc.ToNative(err)
}

// Resume undoes Pause.
func (p *Task) Resume(t T) error {
	ctx, cancel := request(t)
	defer cancel()
	_, err := p.tasks().Resume(ctx, &tasksapi.ResumeTaskRequest{ContainerID: p.Container.ID})
	return errgrpc.ToNative(err)
}

// Update changes the container's limits.
func (p *Task) Update(t T, resources *specs.LinuxResources) error {
	ctx, cancel := request(t)
	defer cancel()
	encoded, err := asAny("LinuxResources", resources)
	if err != nil {
		return err
	}
	_, err = p.tasks().Update(ctx, &tasksapi.UpdateTaskRequest{ContainerID: p.Container.ID, Resources: encoded})
	return errgrpc.ToNative(err)
}

// Checkpoint asks for a checkpoint.
func (p *Task) Checkpoint(t T) error {
	ctx, cancel := request(t)
	defer cancel()
	_, err := p.tasks().Checkpoint(ctx, &tasksapi.CheckpointTaskRequest{ContainerID: p.Container.ID})
	return errgrpc.ToNative(err)
}

// Metrics asks for the container's metrics.
func (p *Task) Metrics(t T) (*types.Metric, error) {
	ctx, cancel := request(t)
	defer cancel()
	reply, err := p.tasks().Metrics(ctx, &tasksapi.MetricsRequest{Filters: []string{"id==" + p.Container.ID}})
	if err != nil {
		return nil, errgrpc.ToNative(err)
	}
	if len(reply.Metrics) != 1 {
		return nil, fmt.Errorf("%d metrics for one container", len(reply.Metrics))
	}
	return reply.Metrics[0], nil
}

// Pids lists the container's processes, with what is known about each.
func (p *Task) Pids(t T) (map[uint32]*anypb.Any, error) {
	ctx, cancel := request(t)
	defer cancel()
	reply, err := p.tasks().ListPids(ctx, &tasksapi.ListPidsRequest{ContainerID: p.Container.ID})
	if err != nil {
		return nil, errgrpc.ToNative(err)
	}
	pids := map[uint32]*anypb.Any{}
	for _, p := range reply.Processes {
		pids[p.Pid] = p.Info
	}
	return pids, nil
}

func (p *Task) tasks() tasksapi.TasksClient { return p.Container.Cell.client.tasks }

func (p *Task) name() string {
	if p.ExecID == "" {
		return "the task of " + p.Container.ID
	}
	return fmt.Sprintf("the process %s of %s", p.ExecID, p.Container.ID)
}
