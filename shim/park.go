package shim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"golang.org/x/sys/unix"

	"github.com/hyperhq/hyper/config"
	"github.com/hyperhq/hyper/sandbox"
	"github.com/hyperhq/hyper/sandbox/record"
	"github.com/hyperhq/hyper/shim/pool"
)

const (
	// parkAction is the action of a shim that has no pod yet.
	parkAction = "park"
	// parkedID is what it is called until it has one.
	parkedID = "pool"
	// parkTimeout bounds the making of its machine, which gives way to all else on the
	// host.
	parkTimeout = 2 * time.Minute
	// parkRest is how long it waits before that: a pod has just been started, or has ended
	// and its remains are removed. Its priority is nothing to those of other sessions.
	parkRest = 250 * time.Millisecond
)

// park is a shim that makes a machine, waits in the pool until it is claimed, and is
// then the server of the pod that has claimed it.
func park(i invocation, in io.Reader) error {
	var wanted poolPlace
	if err := readRequest(in, &wanted); err != nil {
		return err
	}
	mounts := os.NewFile(3, "mounts")
	unix.CloseOnExec(int(mounts.Fd()))
	defer mounts.Close()
	// Before anything is mounted.
	if err := isolateMounts(); err != nil {
		return err
	}
	// Before it has anything that it must not leave.
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer stop()
	p := &parking{invocation: i, mounts: mounts, wants: wanted.Wants, claimed: stop}
	c, key, err := p.look()
	if err != nil || key != wanted.Key {
		return err // the next start asks for another
	}
	place, err := pool.New(runRoot(os.Getenv)).Take(key, limitsOf(c))
	if place == nil || err != nil {
		return err
	}
	p.key, p.place = key, place
	err = p.run(ctx, c)
	return errors.Join(err, place.Leave())
}

// parking is one shim in the pool.
type parking struct {
	invocation invocation
	mounts     *os.File // the mount namespace that containerd runs shims in
	wants      sandbox.Wants
	key        string
	place      *pool.Place
	machine    *sandbox.Parked
	claimed    func() // is called when signals are the server's
	trouble    error  // with the pool alone, to be told when there is a log
}

// look reads the configuration as it is now, and gives the key that a start would look
// for.
func (p *parking) look() (*config.Config, string, error) {
	c, err := config.Load()
	if err != nil {
		return nil, "", err
	}
	key, err := keyOf(c, p.invocation.Namespace, p.invocation.Address, p.wants, p.mounts)
	return c, key, err
}

// run makes the machine, waits and serves.
func (p *parking) run(ctx context.Context, c *config.Config) error {
	err := p.make(ctx, c)
	switch {
	case errors.Is(err, sandbox.ErrNoTemplate):
		return nil // a machine of this kind that boots has one built: a later start asks again
	case err != nil && ctx.Err() == nil:
		return errors.Join(err, p.place.Failed(err))
	case err != nil:
		return err
	}
	claim, socket, c, err := p.wait(ctx, limitsOf(c).Window)
	if err != nil {
		return p.machine.Kill(context.Background())
	}
	p.claimed()
	go p.machine.Wake() // ends by its deadline; the sandbox waits for it
	// Its directory goes with it.
	if err := os.Rename(p.place.Dir(), runDir(claim.RunDir).sandbox()); err != nil {
		return errors.Join(fmt.Errorf("take the machine's directory along: %w", err), p.machine.Kill(context.Background()))
	}
	return p.serve(claim, socket, c)
}

// make makes the machine, out of the others' way, and writes it down.
func (p *parking) make(ctx context.Context, c *config.Config) error {
	if err := unix.Setpriority(unix.PRIO_PGRP, 0, lowestPriority); err != nil {
		return fmt.Errorf("give way to others: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, parkTimeout)
	defer cancel()
	begin := time.Now()
	var err error
	select {
	case <-time.After(parkRest):
	case <-ctx.Done():
		return ctx.Err()
	}
	p.machine, err = sandbox.Park(ctx, sandbox.ParkOptions{ID: parkedID, Dir: p.place.Dir(), Config: c, Wants: p.wants})
	if err != nil {
		return err
	}
	took := time.Since(begin)
	if err := p.record(); err != nil {
		return errors.Join(err, p.machine.Kill(context.WithoutCancel(ctx)))
	}
	p.trouble = p.place.Made(took) // the machine is as good
	return nil
}

// record writes down the processes, and gives them the priority that a pod's have.
func (p *parking) record() error {
	self, err := record.Of(os.Getpid(), "shim")
	if err != nil {
		return err
	}
	all, groups := []record.Process{self}, []int{0}
	for _, process := range p.machine.Processes() {
		r, err := record.Of(process.PID, process.Name)
		if err != nil {
			return err
		}
		all, groups = append(all, r), append(groups, process.PID)
	}
	for _, group := range groups {
		if err := unix.Setpriority(unix.PRIO_PGRP, group, 0); err != nil {
			return fmt.Errorf("take the priority of a pod: %w", err)
		}
	}
	return p.place.Record(all)
}

// wait waits for a claim, for so long at most, and as long as the machine is of use. It
// gives the claim with the socket to serve on and the configuration as it is then.
func (p *parking) wait(ctx context.Context, idle time.Duration) (_ *pool.Claim, _ *os.File, c *config.Config, err error) {
	ctx, cancel := context.WithTimeout(ctx, idle)
	defer cancel()
	go func() { // ends with ctx, so with wait
		select {
		case <-p.machine.Done():
			cancel()
		case <-ctx.Done():
		}
	}()
	l, err := p.place.Listen()
	if err != nil {
		return nil, nil, nil, err
	}
	defer l.Close()
	claim, socket, err := l.Accept(ctx, func(pool.Claim) error {
		var key string
		if c, key, err = p.look(); err != nil {
			return err
		}
		if key != p.key {
			return fmt.Errorf("configuration or program have changed: %w", errdefs.ErrFailedPrecondition)
		}
		return p.machine.Check()
	})
	return claim, socket, c, err
}

// serve becomes the server of the pod.
func (p *parking) serve(claim *pool.Claim, socket *os.File, c *config.Config) (err error) {
	defer func() {
		// Should the sandbox not have had it.
		err = errors.Join(err, p.machine.Kill(context.Background()))
	}()
	dir := runDir(claim.RunDir)
	l, err := takeOver(claim, socket)
	if err != nil {
		// The pod finds nobody, and delete removes the rest.
		return err
	}
	// The pod does not wait for others in the pool: its next start, or our end, removes the
	// rest.
	if err := errors.Join(p.trouble, p.place.Release()); err != nil {
		log.L.WithError(err).Warn("what the pool knows of the pod's machine is not true")
	}
	i := invocation{
		Namespace: claim.Namespace, ID: claim.ID, Address: claim.Address, Debug: claim.Debug, RunDir: claim.RunDir,
		Pool: poolPlace{Key: p.key, Wants: p.wants}.String(),
	}
	return runServer(l, &opener{
		invocation: i, dir: dir, mounts: p.mounts, parked: p.machine,
		load: func() (*config.Config, error) { return c, nil },
	})
}

// takeOver gives this process what start would have given a new server.
func takeOver(claim *pool.Claim, socket *os.File) (*net.UnixListener, error) {
	l, err := inheritListener(socket)
	if err != nil {
		return nil, err
	}
	os.Clearenv()
	for _, entry := range claim.Env {
		name, value, _ := strings.Cut(entry, "=")
		if err := os.Setenv(name, value); err != nil {
			return nil, fmt.Errorf("take the environment: %w", err)
		}
	}
	if err := os.Chdir(claim.Bundle); err != nil {
		return nil, fmt.Errorf("go to the bundle: %w", err)
	}
	return l, openLog(claim.ID, claim.Debug)
}
