package task

import (
	"context"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"golang.org/x/sys/unix"
)

// removePatience is how long RemoveAmong waits: less than our own delete, which takes a
// server that does not answer for one that hangs, and kills it.
const removePatience = time.Second

// Remove removes a task whatever it does: one that is being made is given up, one
// that runs is killed, and output that nobody reads is lost.
func (s *Service) Remove(ctx context.Context, id string) (Exit, uint32, error) {
	s.mu.Lock()
	m := s.making[id]
	s.mu.Unlock()
	if m != nil {
		m.cancel()
		select {
		case <-m.done:
		case <-ctx.Done():
			return Exit{}, 0, fmt.Errorf("remove task %s, which is being made: %w", id, context.Cause(ctx))
		}
	}
	c, err := s.container(id)
	if err != nil {
		return Exit{}, 0, err
	}
	if st := c.init.state(); st == Running || st == Paused {
		if err := c.guest.Signal(ctx, uint32(unix.SIGKILL)); err != nil && !errdefs.IsNotFound(err) {
			return Exit{}, 0, fmt.Errorf("remove task %s: %w", id, err)
		}
		for _, p := range append(c.stop(), c.init) {
			p.giveUp()
		}
		if _, err := c.init.wait(ctx); err != nil {
			return Exit{}, 0, fmt.Errorf("remove task %s: %w", id, err)
		}
	}
	return s.Delete(ctx, id, "")
}

// RemoveAmong is Remove for who kills a server that is too slow. That must not be the end
// of others that live in it, as where their guest has much to do: after a second the error
// is then an errdefs.ErrAborted, and the removal goes on.
func (s *Service) RemoveAmong(ctx context.Context, id string) (Exit, uint32, error) {
	var exit Exit
	var pid uint32
	var err error
	done := make(chan struct{})
	s.mu.Lock()
	if s.closing {
		s.mu.Unlock()
		return s.Remove(ctx, id)
	}
	s.work.Go(func() {
		defer close(done)
		exit, pid, err = s.Remove(s.ctx, id)
	})
	s.mu.Unlock()
	timer := time.NewTimer(removePatience)
	defer timer.Stop()
	select {
	case <-done:
		return exit, pid, err
	case <-timer.C:
	case <-ctx.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return Exit{}, 0, fmt.Errorf("remove task %s: the shim is shutting down: %w", id, errdefs.ErrUnavailable)
	}
	s.work.Go(func() { s.endRemoval(id, done, &err) })
	if !s.livesBeside(id) {
		return Exit{}, 0, fmt.Errorf("remove task %s: it takes too long: %w", id, errdefs.ErrUnavailable)
	}
	return Exit{}, 0, fmt.Errorf("remove task %s: it goes on, and others live here: %w", id, errdefs.ErrAborted)
}

// livesBeside says whether the server has more than one task. s.mu is held.
func (s *Service) livesBeside(id string) bool {
	n := len(s.containers) + len(s.making)
	if s.containers[id] != nil || s.making[id] != nil {
		n--
	}
	return n > 0 || s.held
}

// endRemoval sees to the end of a removal that nobody waits for any more.
func (s *Service) endRemoval(id string, done <-chan struct{}, err *error) {
	<-done
	if *err != nil && !errdefs.IsNotFound(*err) {
		log.G(s.ctx).WithError(*err).Error("removing a task that its runtime has given up")
	}
	s.Shutdown(id) // who else was here may have gone first
}
