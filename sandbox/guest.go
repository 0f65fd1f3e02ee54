package sandbox

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/hyperhq/hyper/proto/channel"
	agentv1 "github.com/hyperhq/hyper/proto/hyper/agent/v1"
	"github.com/hyperhq/hyper/sandbox/cgroup"
	"github.com/hyperhq/hyper/sandbox/factory"
	"github.com/hyperhq/hyper/sandbox/record"
)

// CgroupFile names the file in a sandbox's directory that holds the pod's cgroup,
// as linux.cgroupsPath has it.
const CgroupFile = "cgroup"

const (
	// shareTag names the virtio-fs device, guestShare where the guest mounts it.
	shareTag   = "hyper"
	guestShare = "/run/hyper/share"
	// guestSHM is where the guest has what its containers share as /dev/shm.
	guestSHM = "/run/hyper/shm"
	// defaultSHM is its size in bytes where nothing says another: Kubernetes' own.
	defaultSHM = 64 << 20
	// killTimeout bounds how long a killed machine may take to be gone.
	killTimeout = 10 * time.Second
	// maxVersion bounds what a guest calls its versions, in bytes.
	maxVersion = 128
)

// guest is the sandbox's machine and the session with its agent. It is made
// once, boots in its own goroutine, and ends when its machine does.
type guest struct {
	sandbox *Sandbox
	hardware

	// started is closed when the machine's processes run, ready when its agent
	// has answered, gone when all of it has ended. Each is closed in the end:
	// machine and agent may be read after started and ready, err after any.
	started, ready, gone chan struct{}
	machine              *factory.Machine
	session              *channel.Session
	lost                 <-chan struct{} // closed when the session has ended
	agent                *agentClient
	network              *guestNetwork
	userNetwork          *userNetwork // nil but in a pod on the host's network
	disks                disks
	cgroup               *cgroup.Group // nil if the processes stay where they are
	// moved is closed when cgroup is as it stays. It is nil where that is before started: of
	// all machines but those that were made ahead.
	moved           chan struct{}
	kernel, version string // of the guest's kernel and agent, as they say
	// fitting has room for the one who changes the machine's size. cpus is how many
	// processors the guest was last asked to use, which is of whose turn it is.
	fitting chan struct{}
	cpus    uint32
	// hasContainer is whether the machine was told that a container runs.
	hasContainer sync.Once
	// concluded is whether the machine's end was seen to.
	concluded sync.Once
	err       error
}

func newGuest(s *Sandbox, h hardware) *guest {
	return &guest{
		sandbox:  s,
		hardware: h,
		started:  make(chan struct{}),
		ready:    make(chan struct{}),
		gone:     make(chan struct{}),
		fitting:  make(chan struct{}, 1),
		cpus:     h.leastCPUs,
	}
}

// run is the guest's whole life.
func (g *guest) run() {
	defer g.sandbox.end()
	defer close(g.gone)
	phases := newPhases()
	if err := g.boot(phases); err != nil {
		g.fail(err)
		return
	}
	phases.ready()
	g.tell(phases)
	close(g.ready)

	var followers sync.WaitGroup
	following, stop := context.WithCancel(context.Background())
	followers.Go(func() { g.machine.Answered(following) })
	followers.Go(func() { g.sandbox.forwardEvents(following, g) })
	followers.Go(func() { g.network.follow(following) })
	followers.Go(func() { g.forwardLoopback(following, g.network.file) })
	if g.userNetwork != nil {
		followers.Go(func() { g.userNetwork.keep(following) })
	}
	select {
	case <-g.machine.Done():
	case <-g.lost:
	}
	g.conclude(cmp.Or(g.session.Err(), errors.New("it hung up")))
	g.session.Close()
	stop()
	followers.Wait()
	if err := g.network.close(); err != nil {
		g.sandbox.log.WithError(err).Warn("releasing the sandbox's network")
	}
}

// hasStarted tells the machine that a container runs, once.
func (g *guest) hasStarted() {
	g.hasContainer.Do(func() {
		if err := g.machine.Started(); err != nil {
			g.sandbox.log.WithError(err).Warn("a machine works, but not as it should")
		}
	})
}

// tell says how the start went, to the log and to whoever looks at the sandbox.
func (g *guest) tell(phases *phases) {
	o := g.sandbox.opts
	g.sandbox.log.WithFields(phases.fields()).Info("guest is ready")
	if err := phases.record(o.Namespace, o.ID).Write(filepath.Join(o.Dir, record.StartFile)); err != nil {
		g.sandbox.log.WithError(err).Warn("nobody can look up how the sandbox started")
	}
}

// boot takes the guest to where its agent has answered. When it fails nothing
// runs any more.
func (g *guest) boot(phases *phases) error {
	s := g.sandbox
	ctx, cancel := context.WithTimeoutCause(s.life, s.opts.Config.Sandbox.BootTimeout.Duration,
		fmt.Errorf("no answer within sandbox.boot_timeout = %s", s.opts.Config.Sandbox.BootTimeout))
	defer cancel()

	if parked := s.takeParked(ctx, g.hardware); parked != nil {
		return g.adopt(ctx, parked, phases)
	}
	if err := g.joinCgroup(ctx); err != nil {
		return err
	}
	machine, err := g.make(ctx, phases)
	if err != nil {
		return fmt.Errorf("starting a virtual machine: %w", err)
	}
	if err := g.have(machine, phases); err != nil {
		return err
	}
	if err := g.begin(ctx, phases); err != nil {
		return g.stillborn(err)
	}
	return nil
}

// have makes a machine, whose processes run, the guest's, or ends it.
func (g *guest) have(machine *factory.Machine, phases *phases) error {
	g.machine = machine
	if err := recordProcesses(filepath.Join(g.sandbox.opts.Dir, record.PidsFile), machine.Processes()); err != nil {
		g.kill()
		return err
	}
	phases.end("machine")
	close(g.started)
	return nil
}

// adopt is boot with a machine that was made ahead. Moving a process waits until every
// processor of the host has passed some point, which may take longer than all else; so the guest is
// made the sandbox's meanwhile. No container is made before both are done.
func (g *guest) adopt(ctx context.Context, parked *Parked, phases *phases) error {
	phases.from = record.Pool
	g.session, g.agent = parked.session, parked.agent
	g.moved = make(chan struct{})
	moving := make(chan error, 1)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { // is waited for below, and by have if that fails
		defer close(g.moved)
		err := g.joinCgroup(ctx)
		if err == nil {
			err = g.admit(parked)
		}
		if err != nil {
			cancel()
		}
		moving <- err
	}()
	if err := g.have(parked.machine, phases); err != nil {
		return err
	}
	begun := g.begin(ctx, phases)
	if err := <-moving; err != nil {
		g.kill() // which waits for moved
		if begun == nil {
			err = errors.Join(err, g.session.Close(), g.network.close())
		}
		return err
	}
	if begun != nil {
		return g.stillborn(begun)
	}
	return nil
}

// stillborn ends a machine that has not come to be the sandbox's for the given reason, and
// says what is known of that.
func (g *guest) stillborn(err error) error {
	machine := g.machine
	if g.sandbox.life.Err() == nil {
		machine.Failed(err)
	}
	ended := g.awaitEnd()
	// What the guest said is read before it is ended, which would be in it.
	logged := machine.Log()
	g.kill()
	// One that we have killed ends piece by piece, and that is no reason.
	if ended && machine.Err() != nil {
		return fmt.Errorf("the virtual machine did not boot: %w", machine.Err())
	}
	return fmt.Errorf("the virtual machine did not boot: %w; its console's last lines:\n%s",
		errors.Join(err, errdefs.ErrUnavailable), logged)
}

// make makes a machine.
func (g *guest) make(ctx context.Context, phases *phases) (*factory.Machine, error) {
	s := g.sandbox
	shareDir := ""
	if g.share {
		shareDir = s.share.dir
	}
	wanted := g.machineOf()
	machine, err := s.opts.Factory.Make(ctx, factory.Spec{
		ID:           s.opts.ID,
		Dir:          s.opts.Dir,
		Size:         wanted.Size,
		MaxVCPUs:     wanted.MaxVCPUs,
		MaxMemoryMiB: s.opts.Config.Limits().MemoryMiB,
		ShareTag:     shareTag,
		ShareDir:     shareDir,
		NetNS:        g.pod.NetNS,
		Debug:        s.opts.Config.Sandbox.Debug,
	})
	if err == nil && machine.Cloned {
		phases.from = record.Template
	}
	return machine, err
}

// admit moves the processes of a machine that was there before into the pod's cgroup.
// What memory they have by then stays charged to where they were.
func (g *guest) admit(parked *Parked) error {
	if g.cgroup == nil {
		return nil
	}
	for _, p := range parked.Processes() {
		if err := g.cgroup.Add(p.PID); err != nil {
			return err
		}
	}
	return nil
}

// joinCgroup moves this process into the pod's cgroup, and with it those that it
// starts from here on.
func (g *guest) joinCgroup(ctx context.Context) error {
	if g.pod.Cgroup == "" {
		return nil
	}
	group, err := cgroup.New(g.pod.Cgroup)
	if err != nil {
		return err
	}
	// Before anything is made: whoever cleans up after us must find it.
	path := filepath.Join(g.sandbox.opts.Dir, CgroupFile)
	if err := os.WriteFile(path, []byte(g.pod.Cgroup), 0o600); err != nil {
		return fmt.Errorf("recording the pod's cgroup: %w", err)
	}
	if err := group.Join(ctx); err != nil {
		// And must not take another's for ours.
		return errors.Join(err, os.Remove(path))
	}
	g.cgroup = group
	return g.limitHost(min(g.size.VCPUs, g.mostCPUs))
}

// awaitMoved waits until cgroup is as it stays, which takes as long as a cgroup may be busy.
func (g *guest) awaitMoved() {
	if g.moved != nil {
		<-g.moved
	}
}

// vacateCgroup has the pod's cgroup be removed when the pod ends, however long it takes
// the pod's processes to die.
func (g *guest) vacateCgroup() {
	g.awaitMoved()
	if g.cgroup == nil {
		return
	}
	if err := g.cgroup.Vacate(); err != nil {
		g.sandbox.log.WithError(err).Warn("ending the machine")
	}
}

// lastWords is how long a machine that dies may take until it is known why: its
// channel breaks a moment before.
const lastWords = 500 * time.Millisecond

// awaitEnd gives a machine that is dying the time to do so, or killing it would
// hide what it died of. It reports whether the machine has ended.
func (g *guest) awaitEnd() bool {
	select {
	case <-g.machine.Done():
		return true
	case <-time.After(lastWords):
		return false
	}
}

// begin takes the guest from a machine that runs to where its containers can be made.
func (g *guest) begin(ctx context.Context, phases *phases) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() { // ends with ctx, so with connect
		select {
		case <-g.machine.Done():
			cancel(errors.New("the machine ended"))
		case <-ctx.Done():
		}
	}()
	if g.session == nil {
		var err error
		if g.session, g.agent, err = connect(ctx, g.machine); err != nil {
			return err
		}
		phases.end("agent")
	}
	g.lost = g.session.Done()
	if err := g.prepare(ctx, phases); err != nil {
		g.session.Close()
		return err
	}
	if g.pod.HostNetwork {
		g.userNetwork = &userNetwork{guest: g, log: g.sandbox.log}
		g.userNetwork.start(ctx)
	}
	return nil
}

// connect begins the session with a machine's agent.
func connect(ctx context.Context, machine *factory.Machine) (*channel.Session, *agentClient, error) {
	conn, err := machine.Channel(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("connecting to the agent: %w", err)
	}
	session, err := channel.Connect(ctx, conn)
	if err != nil {
		return nil, nil, fmt.Errorf("waiting for the agent: %w", err)
	}
	agent, err := newAgentClient(ctx, session)
	if err != nil {
		session.Close()
		return nil, nil, err
	}
	return session, agent, nil
}

// prepare makes the guest this sandbox's.
func (g *guest) prepare(ctx context.Context, phases *phases) (err error) {
	if err := g.configure(ctx, phases); err != nil {
		return err
	}
	phases.end("configured")
	if err := g.setClock(ctx); err != nil {
		return err
	}
	phases.end("clock")
	// Before the network, whose cards have a queue for each of them.
	if cpus := min(g.size.VCPUs, g.mostCPUs); cpus > g.cpus {
		g.setCPUs(ctx, cpus)
		phases.end("cpus")
	}
	g.network, err = newGuestNetwork(g)
	return err
}

func (g *guest) configure(ctx context.Context, phases *phases) error {
	entropy, err := newEntropy()
	if err != nil {
		return err
	}
	hostname := g.pod.Hostname
	if hostname == "" {
		hostname = g.sandbox.opts.ID
	}
	shm, err := g.shmSize()
	if err != nil {
		return err
	}
	var mounts []*agentv1.Mount
	if g.share {
		mounts = append(mounts, &agentv1.Mount{Type: "virtiofs", Source: shareTag, Target: guestShare})
	}
	reply, err := g.agent.configure(ctx, &agentv1.ConfigureRequest{
		Now:      timestamppb.Now(),
		Hostname: hostname,
		Entropy:  entropy,
		Mounts:   mounts,
		Sysctls:  g.pod.Sysctls,
		ShmSize:  shm,
	})
	if err != nil {
		return fmt.Errorf("configuring the guest: %w", err)
	}
	g.kernel = printable(reply.GetKernelRelease(), maxVersion)
	g.version = printable(reply.GetAgentVersion(), maxVersion)
	phases.guest(reply.GetPhases())
	return nil
}

// newEntropy is what a guest's random generator begins with.
func newEntropy() ([]byte, error) {
	entropy := make([]byte, 256)
	_, err := rand.Read(entropy)
	return entropy, err
}

// shmSize is the size in bytes of what the containers share as /dev/shm: that of
// the directory on the host which stands for it.
func (g *guest) shmSize() (uint64, error) {
	if g.pod.SHM == "" {
		return defaultSHM, nil
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(g.pod.SHM, &fs); err != nil {
		return 0, fmt.Errorf("finding the size of the pod's /dev/shm, %s: %w", g.pod.SHM, err)
	}
	if fs.Type != unix.TMPFS_MAGIC {
		return defaultSHM, nil
	}
	return fs.Blocks * uint64(fs.Bsize), nil
}

// fail ends a boot: whoever waits for it gets err.
func (g *guest) fail(err error) {
	g.err = err
	// First, or who waits for the machine would take it for having started.
	close(g.ready)
	select {
	case <-g.started:
	default:
		close(g.started)
	}
}

// conclude returns when the machine is gone, which has ended or whose agent hung up or
// makes no sense: nothing can be asked of that, and nothing that it runs can be trusted to
// be watched. The log then has why: most die of themselves and say so, and of those that
// do not it has their last words, and what is wrong with the agent.
func (g *guest) conclude(wrong error) {
	g.concluded.Do(func() {
		unexpected := g.sandbox.life.Err() == nil
		if !g.awaitEnd() {
			if unexpected {
				g.sandbox.log.WithError(wrong).Errorf("the agent is lost: ending the virtual machine\n%s", g.machine.Log())
			}
			g.kill()
		}
		if err := g.machine.Err(); err != nil && unexpected {
			g.sandbox.log.WithError(err).Error("the virtual machine ended")
		}
	})
}

// kill ends the machine now.
func (g *guest) kill() {
	ctx, cancel := context.WithTimeout(context.Background(), killTimeout)
	defer cancel()
	g.vacateCgroup()
	if err := g.machine.Kill(ctx); err != nil {
		g.sandbox.log.WithError(err).Error("killing the virtual machine")
	}
}

// end kills the machine, whatever it is doing, and waits until all is gone. The
// sandbox's life must have ended.
func (g *guest) end(ctx context.Context) error {
	select {
	case <-g.started:
		if g.machine != nil {
			g.vacateCgroup()
			if err := g.machine.Kill(ctx); err != nil {
				return err
			}
		}
	case <-g.gone:
	case <-ctx.Done():
		return fmt.Errorf("waiting for the machine's start to be given up: %w", ctx.Err())
	}
	select {
	case <-g.gone:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("waiting for the machine to end: %w", ctx.Err())
	}
}

// wait waits for one of the guest's stages.
func (g *guest) wait(ctx context.Context, stage <-chan struct{}) error {
	select {
	case <-stage:
		return g.failure()
	case <-ctx.Done():
		return fmt.Errorf("waiting for the virtual machine: %w", ctx.Err())
	}
}

// awaitPlugs waits until disks can be plugged in: a kernel that boots forgets what it
// was told before it could take any, a clone's has booted long ago.
func (g *guest) awaitPlugs(ctx context.Context) error {
	if err := g.wait(ctx, g.started); err != nil {
		return err
	}
	if g.machine.Cloned {
		return nil
	}
	return g.wait(ctx, g.ready)
}

// orFailure gives the reason for an error of somebody who has found the machine gone: that
// of its boot, if that has failed.
func (g *guest) orFailure(ctx context.Context, err error) error {
	if !errdefs.IsUnavailable(err) {
		return err
	}
	if why := g.wait(ctx, g.ready); why != nil && ctx.Err() == nil {
		return why
	}
	return err
}

// failure is why the boot failed. It may be called once started is closed.
func (g *guest) failure() error {
	select {
	case <-g.ready:
		return g.err
	default:
		return nil
	}
}

// call gives the agent, or errdefs.ErrUnavailable if there is none to ask.
func (g *guest) call() (*agentClient, error) {
	select {
	case <-g.gone:
	case <-g.machine.Done():
	default:
		return g.agent, nil
	}
	return nil, fmt.Errorf("the virtual machine of sandbox %s has ended: %w", g.sandbox.opts.ID, errdefs.ErrUnavailable)
}

func (g *guest) pid() int {
	select {
	case <-g.started:
		if g.machine != nil {
			return g.machine.PID()
		}
	default:
	}
	return 0
}

// recordProcesses writes down which processes the sandbox has, for whoever cleans
// up after it.
func recordProcesses(path string, processes []factory.Process) error {
	var found []record.Process
	for _, p := range processes {
		r, err := record.Of(p.PID, p.Name)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			// Already gone: nobody has to end it, and who waits for it says why.
			continue
		}
		if err != nil {
			return err
		}
		found = append(found, r)
	}
	return record.Write(path, found)
}
