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

// machine is one running QEMU. It implements virtcontainers.VM.
type machine struct {
	id      string
	proc    *process.Process
	monitor *qmp.Client
	console *console
	channel channel

	asked atomic.Bool
	// reason is QEMU's own word for why it shuts down.
	reason atomic.Pointer[string]
	done   chan struct{}
	err    error // written before done is closed, read after
}

func newMachine(id string, proc *process.Process, monitor, serial net.Conn, ch channel) *machine {
	m := &machine{
		id:      id,
		proc:    proc,
		console: newConsole(serial),
		channel: ch,
		done:    make(chan struct{}),
	}
	m.monitor = qmp.New(monitor, m.event)
	go m.supervise()
	return m
}

// supervise waits for the end of QEMU, and ends all that belongs to it.
func (m *machine) supervise() {
	<-m.proc.Done()
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

func (m *machine) event(e qmp.Event) {
	if e.Name != "SHUTDOWN" {
		return
	}
	var data struct {
		Reason string `json:"reason"`
	}
	if json.Unmarshal(e.Data, &data) == nil && data.Reason != "" {
		reason := shutdownReason(data.Reason)
		m.reason.Store(&reason)
	}
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
		why = fmt.Sprintf("QEMU ended (%s)", exit.How)
	} else if err != nil {
		why = err.Error()
	}
	if reason := m.reason.Load(); reason != nil {
		why = *reason
	}
	return fmt.Errorf("VM %q is gone: %s: %w\n%s", m.id, why, errdefs.ErrUnavailable, m.Log())
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
