package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"

	"github.com/hyperhq/hyper/qemu/process"
	"github.com/hyperhq/hyper/qemu/qmp"
)

// lastWordsTimeout bounds the wait for what a QEMU that is gone has left behind in
// its sockets.
const lastWordsTimeout = 100 * time.Millisecond

// brokenTimeout bounds the talk with a QEMU that has stopped its guest.
const brokenTimeout = 5 * time.Second

// machine is one running QEMU. It implements virtcontainers.VM.
type machine struct {
	id      string
	binary  string // of QEMU, for messages
	proc    *process.Process
	monitor *qmp.Client
	console *console
	channel channel
	// hotplug says that devices can be plugged in.
	hotplug bool
	plugs   plugs
	memory  memory
	// booted says that this machine has its devices from the start: it is no clone.
	booted bool
	// migrated are the states of a save or a restore, as QEMU tells them.
	migrated chan string

	asked atomic.Bool
	// reason says why the machine ends, once that is known.
	reason atomic.Pointer[string]
	// stopped has a value when the virtual CPUs have stopped.
	stopped chan struct{}
	done    chan struct{}
	err     error // written before done is closed, read after
}

func newMachine(id, binary string, proc *process.Process, monitor, serial net.Conn, ch channel) *machine {
	m := &machine{
		id:      id,
		binary:  binary,
		proc:    proc,
		console: newConsole(serial),
		channel: ch,
		stopped: make(chan struct{}, 1),
		// More than there are states, and QEMU goes through them once.
		migrated: make(chan string, 32),
		done:     make(chan struct{}),
	}
	m.monitor = qmp.New(monitor, m.event)
	go m.supervise()
	return m
}

// supervise waits for the end of QEMU, and ends all that belongs to it.
func (m *machine) supervise() {
	ready := m.monitor.Ready()
	for running := true; running; {
		select {
		case <-ready:
			ready = nil
			m.settle()
		case <-m.stopped:
			m.endIfBroken()
		case <-m.proc.Done():
			running = false
		}
	}
	m.channel.close()
	timeout := time.NewTimer(lastWordsTimeout)
	defer timeout.Stop()
	select {
	case <-m.monitor.Done():
	case <-timeout.C:
	}
	m.monitor.Close()
	m.console.finish(lastWordsTimeout)
	m.err = m.outcome()
	close(m.done)
}

// settle takes from QEMU what it has needed to start, or ends it.
func (m *machine) settle() {
	err := m.proc.Settle()
	if err == nil {
		return
	}
	reason := err.Error()
	m.reason.Store(&reason)
	ctx, cancel := context.WithTimeout(context.Background(), brokenTimeout)
	defer cancel()
	// Its end is waited for by who called this.
	_ = m.proc.Kill(ctx)
}

// endIfBroken ends a QEMU whose virtual CPUs have stopped for good: it would keep
// the dead machine for somebody to look at.
func (m *machine) endIfBroken() {
	ctx, cancel := context.WithTimeout(context.Background(), brokenTimeout)
	defer cancel()
	status, err := m.monitor.QueryStatus(ctx)
	if err != nil {
		return // QEMU ends, or was told to
	}
	switch status.State {
	case "internal-error", "io-error", "guest-panicked", "shutdown":
		reason := "QEMU has stopped the guest: " + status.State
		m.reason.Store(&reason)
		// Its end is waited for by who called this.
		_ = m.proc.Kill(ctx)
	}
}

// event takes note of what QEMU says unasked.
func (m *machine) event(e qmp.Event) {
	switch e.Name {
	case "STOP":
		select {
		case m.stopped <- struct{}{}:
		default: // one is enough
		}
	case "SHUTDOWN":
		if reason := shutdownEvent(e.Data); reason != "" {
			m.reason.Store(&reason)
		}
	case "MIGRATION":
		select {
		case m.migrated <- qmp.MigrationStatus(e):
		default: // it goes round in circles
		}
	case "DEVICE_DELETED":
		m.plugs.deleted(qmp.DeletedDevice(e))
	}
}

// shutdownEvent says why QEMU shuts down, or nothing if its event does not.
func shutdownEvent(data []byte) string {
	var shutdown struct {
		Reason string `json:"reason"`
	}
	if json.Unmarshal(data, &shutdown) != nil || shutdown.Reason == "" {
		return ""
	}
	return shutdownReason(shutdown.Reason)
}

// shutdownReason puts QEMU's ShutdownCause into words.
func shutdownReason(cause string) string {
	switch cause {
	case "guest-shutdown":
		return "the guest powered off"
	case "guest-reset":
		return "the guest reset itself, as its kernel does when it panics"
	case "guest-panic":
		return "the guest's kernel panicked"
	case "host-signal":
		return "QEMU was told to end by a signal"
	case "host-error":
		return "QEMU met an error on the host"
	default:
		return "QEMU shut down: " + process.Printable(cause[:min(len(cause), 64)])
	}
}

func (m *machine) outcome() error {
	if m.asked.Load() {
		return nil
	}
	why := "QEMU ended"
	var exit *process.ExitError
	if err := m.proc.Err(); errors.As(err, &exit) {
		why = fmt.Sprintf("QEMU (%s) ended (%s)", m.binary, exit.How)
	} else if err != nil {
		why = err.Error()
	}
	if reason := m.reason.Load(); reason != nil {
		why = *reason
	}
	return fmt.Errorf("VM %q is gone: %s: %w\n%s", m.id, why, errdefs.ErrUnavailable, m.Log())
}

// Started implements virtcontainers.VM.
func (m *machine) Started() error {
	if err := m.proc.UsualSlice(); err != nil {
		return fmt.Errorf("end the start of VM %q: %w", m.id, err)
	}
	return nil
}

// PID implements virtcontainers.VM.
func (m *machine) PID() int { return m.proc.PID() }

// Done implements virtcontainers.VM.
func (m *machine) Done() <-chan struct{} { return m.done }

// Err implements virtcontainers.VM.
func (m *machine) Err() error {
	select {
	case <-m.done:
		return m.err
	default:
		return nil
	}
}

// Log implements virtcontainers.VM.
func (m *machine) Log() string {
	var b strings.Builder
	section(&b, "guest console", m.console.tail.String())
	section(&b, "QEMU", m.proc.Log())
	return b.String()
}

func section(b *strings.Builder, title, text string) {
	if text == "" {
		fmt.Fprintf(b, "%s: nothing\n", title)
		return
	}
	fmt.Fprintf(b, "%s, last lines:\n%s\n", title, text)
}

// Channel implements virtcontainers.VM.
func (m *machine) Channel(ctx context.Context) (net.Conn, error) {
	gone := fmt.Errorf("VM %q is gone: %w", m.id, errdefs.ErrUnavailable)
	select {
	case <-m.done:
		return nil, gone
	default:
	}
	conn, err := m.channel.accept(ctx)
	if err == nil {
		return conn, nil
	}
	select {
	case <-m.proc.Done(): // what ended the accept
		return nil, gone
	default:
		return nil, fmt.Errorf("channel of VM %q: %w", m.id, err)
	}
}

// Kill implements virtcontainers.VM.
func (m *machine) Kill(ctx context.Context) error {
	m.asked.Store(true)
	if err := m.proc.Kill(ctx); err != nil {
		return fmt.Errorf("kill VM %q: %w", m.id, err)
	}
	select {
	case <-m.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("kill VM %q: wait for its end: %w", m.id, ctx.Err())
	}
}
