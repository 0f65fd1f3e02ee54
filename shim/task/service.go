package task

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/containerd/containerd/api/events"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/hyperhq/hyper/shim/stdio"
	"google.golang.org/protobuf/proto"
)

// Publisher takes events, to be delivered in the order in which they come.
type Publisher interface {
	Publish(topic string, event proto.Message)
}

// Options are what a Service needs.
type Options struct {
	// ID is that of the container for which the shim was started.
	ID string
	// Open makes the sandbox; it is called once, for the first container.
	Open func(ctx context.Context, bundle string) (Sandbox, error)
	// Events takes the events.
	Events Publisher
	// Stdio opens standard streams.
	Stdio *stdio.Host
	// Shutdown is called once, when containerd asks for the end and no
	// container lives. It must not wait for the call that it is called from.
	Shutdown func()
}

// Service is the task service of one sandbox.
type Service struct {
	o    Options
	ctx  context.Context // of the goroutines; it carries the log
	stop context.CancelFunc
	work sync.WaitGroup // one per goroutine

	open    func() (Sandbox, error) // of the first caller's bundle
	opening sync.Once

	mu         sync.Mutex
	sandbox    Sandbox
	containers map[string]*container
	making     map[string]*making
	created    bool // a container has been asked for
	held       bool // the shim's end is not ours to decide
	closing    bool
}

// making is a container that is being made.
type making struct {
	cancel context.CancelFunc
	done   chan struct{} // closed when it is made, or is not
}

// New returns the service. ctx carries the log; its end does not end anything.
func New(ctx context.Context, o Options) *Service {
	s := &Service{o: o, containers: make(map[string]*container), making: make(map[string]*making)}
	s.ctx, s.stop = context.WithCancel(context.WithoutCancel(ctx))
	return s
}

// Close ends the sandbox and with it every task, publishes their exits, and
// returns when all goroutines of the service have ended or ctx is done. No
// container can be made any more.
func (s *Service) Close(ctx context.Context) error {
	s.mu.Lock()
	s.closing = true
	sandbox := s.sandbox
	s.mu.Unlock()
	var err error
	if sandbox != nil {
		if err = sandbox.Stop(ctx); err != nil {
			err = fmt.Errorf("stop the sandbox: %w", err)
		}
	}
	s.stop() // of the waits for exits and for output
	done := make(chan struct{})
	go func() {
		s.work.Wait()
		close(done)
	}()
	select {
	case <-done:
		return errors.Join(err, s.closeStdio())
	case <-ctx.Done():
		return errors.Join(err, fmt.Errorf("wait for the tasks to end: %w", context.Cause(ctx)))
	}
}

// closeStdio closes the streams of tasks that were not deleted.
func (s *Service) closeStdio() error {
	s.mu.Lock()
	var rest []*process
	for _, c := range s.containers {
		rest = append(append(rest, c.init), c.close()...)
	}
	s.mu.Unlock()
	var err error
	for _, p := range rest {
		err = errors.Join(err, p.stdio.Close())
	}
	return err
}

// reserve takes a container's id until made is called with what came of it. The
// container is to be made within the context that it returns.
func (s *Service) reserve(ctx context.Context, id string) (_ context.Context, made func(*container), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return nil, nil, fmt.Errorf("create task %s: the shim is shutting down: %w", id, errdefs.ErrUnavailable)
	}
	if s.containers[id] != nil || s.making[id] != nil {
		return nil, nil, fmt.Errorf("task %s: %w", id, errdefs.ErrAlreadyExists)
	}
	s.created = true
	ctx, cancel := context.WithCancel(ctx)
	m := &making{cancel: cancel, done: make(chan struct{})}
	s.making[id] = m
	return ctx, func(c *container) {
		cancel()
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.making, id)
		if c != nil {
			s.containers[id] = c
		}
		close(m.done)
	}, nil
}

func (s *Service) release(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.containers, id)
}

func (s *Service) container(id string) (*container, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.containers[id]; c != nil {
		return c, nil
	}
	return nil, fmt.Errorf("task %s: %w", id, errdefs.ErrNotFound)
}

func (s *Service) process(id, execID string) (*container, *process, error) {
	c, err := s.container(id)
	if err != nil {
		return nil, nil, err
	}
	p, err := c.process(execID)
	return c, p, err
}

// openSandbox returns the sandbox, which the first call makes.
func (s *Service) openSandbox(ctx context.Context, bundle string) (Sandbox, error) {
	s.opening.Do(func() {
		s.open = sync.OnceValues(func() (Sandbox, error) { return s.o.Open(ctx, bundle) })
	})
	sandbox, err := s.open()
	if err != nil {
		return nil, fmt.Errorf("make the sandbox: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sandbox == nil {
		s.sandbox = sandbox
		s.work.Go(func() { s.watchOOM(sandbox) })
	}
	return sandbox, nil
}

func (s *Service) watchOOM(sandbox Sandbox) {
	for {
		select {
		case id, ok := <-sandbox.OOMs():
			if !ok {
				return
			}
			if _, err := s.container(id); err != nil {
				log.G(s.ctx).Warnf("out of memory in an unknown task %q", id)
				continue
			}
			s.o.Events.Publish(topicOOM, &events.TaskOOM{ContainerID: id})
		case <-s.ctx.Done():
			return
		}
	}
}

// Hold makes Shutdown leave the shim alone, for good: the pod is more than its
// containers, and somebody else ends it. ErrUnavailable if that has begun.
func (s *Service) Hold() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return fmt.Errorf("the shim is shutting down: %w", errdefs.ErrUnavailable)
	}
	s.held = true
	return nil
}

// Shutdown ends the shim if no container lives, or is being made. A shim that
// has not yet made any ends only if its own id is named: containerd cleans up
// after a container whose group's next shim this is already. It does nothing
// after Hold.
func (s *Service) Shutdown(id string) {
	s.mu.Lock()
	stay := s.closing || s.held || len(s.containers)+len(s.making) > 0 || (!s.created && id != s.o.ID)
	if !stay {
		s.closing = true
	}
	s.mu.Unlock()
	if !stay {
		s.o.Shutdown()
	}
}
