package shim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"runtime"
	"sync"
	"time"

	"github.com/containerd/log"
	"github.com/containerd/ttrpc"
	"github.com/hyperhq/hyper/config"
	"github.com/hyperhq/hyper/sandbox/record"
	"github.com/hyperhq/hyper/shim/event"
	"github.com/hyperhq/hyper/shim/sandboxapi"
	"github.com/hyperhq/hyper/shim/stdio"
	"github.com/hyperhq/hyper/shim/task"
	"golang.org/x/sys/unix"
)

const (
	// closeTimeout bounds the end of the sandbox, flushTimeout that of the
	// events after it and loggerTimeout that of loggers.
	closeTimeout  = 10 * time.Second
	flushTimeout  = 3 * time.Second
	loggerTimeout = 13 * time.Second
	// answerTimeout bounds the last answers: others than who asked for the end
	// may stay connected.
	answerTimeout = time.Second
	// killTimeout bounds the end of what is left after all that.
	killTimeout = time.Second
	// maxDump bounds a dump of all goroutines, in bytes.
	maxDump = 1 << 20
)

// serve is the server. It returns when its sandbox has ended.
func serve(i invocation) error {
	if err := awaitGate(os.NewFile(4, "gate")); err != nil {
		return err
	}
	if err := openLog(i.ID, i.Debug); err != nil {
		return err
	}
	// Before anything is mounted.
	isolated := isolateMounts()
	l, err := inheritListener(os.NewFile(3, "socket"))
	if err != nil {
		return err
	}
	// Where what outlives the pod belongs: not into the pod's mounts.
	mounts := os.NewFile(5, "mounts")
	unix.CloseOnExec(int(mounts.Fd()))
	defer mounts.Close()
	return runServer(l, &opener{invocation: i, dir: runDir(i.RunDir), isolated: isolated, load: config.Load, mounts: mounts})
}

// runServer serves until the sandbox has ended.
func runServer(l *net.UnixListener, o *opener) error {
	defer closeLog()
	s := newServer(l, o)
	err := s.run()
	o.refills.Wait()
	if err != nil {
		log.L.WithError(err).Error("the server ended with an error")
	}
	// Should the sandbox not have ended, nobody could find its processes later.
	ctx, cancel := context.WithTimeout(context.Background(), killTimeout)
	defer cancel()
	hs, rerr := record.OpenAll(s.dir.pids())
	return errors.Join(err, rerr, record.KillAll(ctx, hs), s.dir.remove())
}

// awaitGate waits until start has recorded us. If it dies before that nobody
// knows of us, and we must not stay.
func awaitGate(gate *os.File) error {
	defer gate.Close()
	word, err := io.ReadAll(io.LimitReader(gate, int64(len(gateWord))))
	if err != nil || string(word) != gateWord {
		return fmt.Errorf("the server is started by start only (gate: %q, %v)", word, err)
	}
	return nil
}

// isolateMounts keeps our mounts from the host; the host's still come to us.
func isolateMounts() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("keep mounts from the host: %w", err)
	}
	return nil
}

func inheritListener(f *os.File) (*net.UnixListener, error) {
	defer f.Close() // the listener has a copy, which children do not inherit
	l, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("take over the socket: %w", err)
	}
	ul, ok := l.(*net.UnixListener)
	if !ok {
		return nil, errors.Join(fmt.Errorf("take over the socket: it is a %s", l.Addr().Network()), l.Close())
	}
	return ul, nil
}

// server is the shim's process of one sandbox.
type server struct {
	dir      runDir
	listener *net.UnixListener
	remote   *event.Remote
	events   *event.Queue
	stdio    *stdio.Host
	tasks    *task.Service
	sandbox  *sandboxapi.Service
	ended    chan struct{} // closed when the end has begun
	ending   sync.Once
}

// newServer makes the server of the sandbox that o opens.
func newServer(l *net.UnixListener, o *opener) *server {
	ctx := context.Background()
	i := o.invocation
	s := &server{
		dir:      o.dir,
		listener: l,
		remote:   event.NewRemote(os.Getenv("TTRPC_ADDRESS")),
		stdio:    stdio.NewHost(i.Namespace),
		ended:    make(chan struct{}),
	}
	o.ending = s.ended
	s.events = event.NewQueue(ctx, i.Namespace, s.remote)
	open := sync.OnceValues(o.open) // whoever comes first
	s.tasks = task.New(ctx, task.Options{
		ID:       i.ID,
		Open:     func(context.Context, string) (task.Sandbox, error) { return open() },
		Events:   s.events,
		Stdio:    s.stdio,
		Shutdown: s.end,
	})
	s.sandbox = sandboxapi.New(sandboxapi.Options{
		Open:     func() (sandboxapi.Sandbox, error) { p, err := open(); return podSandbox{p}, err },
		Tasks:    s.tasks,
		Shutdown: s.end,
	})
	return s
}

// end begins the end: from here on the address is free for another server.
func (s *server) end() {
	s.ending.Do(func() {
		if err := s.dir.close(); err != nil {
			log.L.WithError(err).Warn("mark the end of the server")
		}
		// The name first: once we do not listen it may be another's.
		if err := os.Remove(s.listener.Addr().String()); err != nil {
			log.L.WithError(err).Warn("remove the socket")
		}
		close(s.ended) // before what else would look like a failure to serve
		_ = s.listener.Close()
	})
}

func (s *server) run() error {
	peers := &peers{Handshaker: ttrpc.UnixSocketRequireSameUser()}
	rpc, err := ttrpc.NewServer(ttrpc.WithServerHandshaker(peers))
	if err != nil {
		return fmt.Errorf("make the ttrpc server: %w", err)
	}
	task.Register(rpc, s.tasks)
	sandboxapi.Register(rpc, s.sandbox)
	served := make(chan error, 1)
	go func() { served <- rpc.Serve(context.Background(), s.listener) }()
	err = s.wait(served)
	s.end()
	err = errors.Join(err, s.close())
	// Whoever asked for the end hangs up once that is answered.
	ctx, cancel := context.WithTimeout(context.Background(), answerTimeout)
	defer cancel()
	peers.wait(ctx)
	return errors.Join(err, rpc.Close(), s.remote.Close())
}

// wait returns when the end has begun, by request or by signal, or serving has
// failed.
func (s *server) wait(served <-chan error) error {
	signals := make(chan os.Signal, 16)
	// SIGPIPE: a log that nobody reads is no reason to die.
	signal.Notify(signals, unix.SIGTERM, unix.SIGINT, unix.SIGPIPE, unix.SIGUSR1)
	defer signal.Stop(signals)
	for {
		select {
		case <-s.ended:
			return nil
		case err := <-served:
			select {
			case <-s.ended:
				return nil
			default:
				return fmt.Errorf("serve: %w", err)
			}
		case sig := <-signals:
			switch sig {
			case unix.SIGTERM, unix.SIGINT:
				log.L.Infof("asked to end by %s", sig)
				return nil
			case unix.SIGUSR1:
				buf := make([]byte, maxDump)
				log.L.Infof("goroutines:\n%s", buf[:runtime.Stack(buf, true)])
			}
		}
	}
}

// close ends the sandbox and its tasks, then delivers their last events, then sees off the
// loggers.
func (s *server) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	err := errors.Join(s.sandbox.Close(ctx), s.tasks.Close(ctx))
	cancel()
	ctx, cancel = context.WithTimeout(context.Background(), flushTimeout)
	err = errors.Join(err, s.events.Close(ctx))
	cancel()
	loggers := make(chan struct{})
	go func() {
		s.stdio.Wait()
		close(loggers)
	}()
	timer := time.NewTimer(loggerTimeout)
	defer timer.Stop()
	select {
	case <-loggers:
	case <-timer.C:
		err = errors.Join(err, errors.New("loggers did not end"))
	}
	return err
}
