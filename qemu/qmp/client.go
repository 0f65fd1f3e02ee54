package qmp

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"

	"github.com/containerd/errdefs"
)

// Client is one connection to a QEMU's monitor. All methods may be called at any
// time and from any goroutine. Every command fails with ErrUnavailable once the
// connection is lost, with the context's error if that ends first, and with an
// *Error if QEMU refuses it.
type Client struct {
	conn    net.Conn
	onEvent func(Event)

	out      chan outgoing
	greeted  chan struct{} // closed by read
	ready    chan struct{} // closed by handshake
	done     chan struct{} // closed by read, after err is set
	err      error
	finished sync.WaitGroup

	mu      sync.Mutex
	lastID  uint64
	waiting map[uint64]chan<- message
}

// New begins to speak on conn, which is the client's from then on. onEvent is
// called for every event, in their order; it must return at once and must not
// call the client.
func New(conn net.Conn, onEvent func(Event)) *Client {
	c := &Client{
		conn:    conn,
		onEvent: onEvent,
		out:     make(chan outgoing),
		greeted: make(chan struct{}),
		ready:   make(chan struct{}),
		done:    make(chan struct{}),
		waiting: map[uint64]chan<- message{},
	}
	c.finished.Go(c.read)
	c.finished.Go(c.write)
	c.finished.Go(c.handshake)
	return c
}

// Ready is closed once QEMU takes commands: it has made its machine then.
func (c *Client) Ready() <-chan struct{} { return c.ready }

// Done is closed once the connection is lost or closed, and no event will follow.
func (c *Client) Done() <-chan struct{} { return c.done }

// Close ends the connection, which leaves the machine as it is. It returns when
// nothing of the client runs any more, and may be called again.
func (c *Client) Close() {
	c.conn.Close()
	c.finished.Wait()
}

// read takes in all that QEMU says until the connection ends.
func (c *Client) read() {
	scanner := bufio.NewScanner(c.conn)
	scanner.Buffer(nil, maxLine)
	var err error
	for err == nil && scanner.Scan() {
		err = c.take(scanner.Bytes())
	}
	if err == nil {
		err = scanner.Err()
	}
	c.conn.Close()
	if err == nil || errors.Is(err, net.ErrClosed) {
		c.err = fmt.Errorf("the connection to QEMU's monitor is closed: %w", errdefs.ErrUnavailable)
	} else {
		c.err = fmt.Errorf("the connection to QEMU's monitor is lost: %w: %w", err, errdefs.ErrUnavailable)
	}
	close(c.done)
}

func (c *Client) take(line []byte) error {
	m, err := decode(line)
	if err != nil {
		return err
	}
	switch {
	case m.greeting:
		select {
		case <-c.greeted:
			return errors.New("a second QMP greeting")
		default:
			close(c.greeted)
		}
	case m.event != nil:
		c.onEvent(*m.event)
	default:
		c.mu.Lock()
		reply := c.waiting[m.id]
		delete(c.waiting, m.id)
		c.mu.Unlock()
		if reply != nil {
			reply <- m // has room for this one
		}
	}
	return nil
}

// write sends one command at a time. QEMU may stop reading: then this waits, and
// those who gave the commands wait only as long as their contexts allow.
func (c *Client) write() {
	for {
		select {
		case o := <-c.out:
			if err := o.writeTo(c.conn); err != nil {
				c.conn.Close()
				return
			}
		case <-c.done:
			return
		}
	}
}

func (c *Client) handshake() {
	select {
	case <-c.greeted:
	case <-c.done:
		return
	}
	// No deadline of its own: commands that wait for it have theirs, and the end
	// of the connection ends it.
	if err := c.send(context.Background(), "qmp_capabilities", nil, nil, nil); err != nil {
		c.conn.Close()
		return
	}
	close(c.ready)
}

// execute gives a command when the handshake is done, and decodes its result into
// result unless that is nil.
func (c *Client) execute(ctx context.Context, name string, arguments, result any) error {
	return c.executeWith(ctx, name, arguments, nil, result)
}

// executeWith is execute, with a file that goes along with the command, or nil.
func (c *Client) executeWith(ctx context.Context, name string, arguments any, file *os.File, result any) error {
	select {
	case <-c.ready:
		return c.send(ctx, name, arguments, file, result)
	case <-c.done:
		return fmt.Errorf("%s: %w", name, c.err)
	case <-ctx.Done():
		return fmt.Errorf("%s: wait for QEMU's monitor: %w", name, ctx.Err())
	}
}

func (c *Client) send(ctx context.Context, name string, arguments any, file *os.File, result any) error {
	reply := make(chan message, 1)
	c.mu.Lock()
	c.lastID++
	id := c.lastID
	c.waiting[id] = reply
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.waiting, id)
		c.mu.Unlock()
	}()

	line, err := json.Marshal(command{Execute: name, Arguments: arguments, ID: id})
	if err != nil {
		return fmt.Errorf("%s: encode its arguments: %w", name, err)
	}
	o := outgoing{line: append(line, '\n')}
	if file != nil {
		// A copy: the caller may close its own once this has given up, and the
		// line be written after that.
		if o.file, err = duplicate(file); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	out := c.out
	defer func() {
		if out != nil {
			o.close()
		}
	}()
	for {
		select {
		case out <- o:
			out = nil // the file is the writer's now
		case m := <-reply:
			return finish(m, name, result)
		case <-c.done:
			select {
			case m := <-reply: // the last that was heard, to "quit" for example
				return finish(m, name, result)
			default:
				return fmt.Errorf("%s: %w", name, c.err)
			}
		case <-ctx.Done():
			return fmt.Errorf("%s: wait for QEMU's answer: %w", name, ctx.Err())
		}
	}
}

func finish(m message, name string, result any) error {
	if m.failure != nil {
		m.failure.Command = name
		return m.failure
	}
	if result == nil {
		return nil
	}
	if err := json.Unmarshal(m.result, result); err != nil {
		return fmt.Errorf("%s: decode QEMU's answer: %w", name, err)
	}
	return nil
}
