package pool

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/containerd/errdefs"
)

// Listener is where one who waits is found.
type Listener struct {
	place *Place
	l     *net.UnixListener
}

// Listen makes the place one at which claims are accepted.
func (p *Place) Listen() (*Listener, error) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: p.socket(), Net: "unix"})
	if err == nil {
		l.SetUnlinkOnClose(false) // the place removes it, under its lock
		if err = os.Chmod(p.socket(), 0o600); err != nil {
			err = errors.Join(err, l.Close())
		}
	}
	if err != nil {
		return nil, fmt.Errorf("wait in the pool: %w", err)
	}
	return &Listener{place: p, l: l}, nil
}

// Close lets nobody come any more, and ends an Accept.
func (l *Listener) Close() error { return l.l.Close() }

// errRefused ends the waiting: what waits is of no use to anyone.
var errRefused = errors.New("of no more use")

// Accept waits for one claim that check agrees with and that is confirmed, and returns
// it with the socket that came with it. It ends with ctx, and with the first claim that
// check refuses: what is of no use to that one is of none to the next.
func (l *Listener) Accept(ctx context.Context, check func(Claim) error) (*Claim, *os.File, error) {
	stop := context.AfterFunc(ctx, func() { _ = l.l.Close() })
	defer stop()
	for {
		conn, err := l.l.AcceptUnix()
		if err != nil {
			if cause := context.Cause(ctx); cause != nil {
				err = cause
			}
			return nil, nil, fmt.Errorf("wait for a claim: %w", err)
		}
		claim, socket, err := l.hear(conn, check)
		if err == nil {
			return claim, socket, nil
		}
		if errors.Is(err, errRefused) {
			return nil, nil, err
		}
		// Who came has gone, or is nobody to listen to.
	}
}

// hear hears one claim.
func (l *Listener) hear(conn *net.UnixConn, check func(Claim) error) (_ *Claim, socket *os.File, err error) {
	defer conn.Close()
	defer func() {
		if err != nil {
			socket.Close() // also of none
		}
	}()
	if _, err := peerOf(conn); err != nil {
		return nil, nil, err
	}
	if err := conn.SetDeadline(time.Now().Add(claimTimeout)); err != nil {
		return nil, nil, err
	}
	var claim Claim
	if socket, err = readMessage(conn, &claim); err != nil {
		return nil, socket, err
	}
	if socket == nil {
		return nil, nil, fmt.Errorf("a claim without a socket: %w", errdefs.ErrInvalidArgument)
	}
	if claim.Key != l.place.key {
		err := fmt.Errorf("it waits for %s, not for %s: %w", l.place.key, claim.Key, errdefs.ErrInvalidArgument)
		return nil, socket, errors.Join(err, writeMessage(conn, answer{Refused: err.Error()}, nil))
	}
	if err := check(claim); err != nil {
		_ = writeMessage(conn, answer{Refused: err.Error()}, nil) // to whom that is news
		return nil, socket, fmt.Errorf("%w: %w", errRefused, err)
	}
	if err := writeMessage(conn, answer{}, nil); err != nil {
		return nil, socket, err
	}
	var word confirmation
	file, err := readMessage(conn, &word)
	file.Close() // also of none
	if err == nil && !word.Go {
		err = fmt.Errorf("a claim that was not confirmed: %w", errdefs.ErrInvalidArgument)
	}
	if err != nil {
		return nil, socket, err
	}
	// From here on it is the claimer's, who ends this process if it does not hear that.
	_ = writeMessage(conn, answer{}, nil)
	return &claim, socket, nil
}
