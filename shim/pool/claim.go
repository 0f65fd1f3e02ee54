package pool

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/errdefs"
)

// claimTimeout bounds each word of a claim: who waits has nothing else to do.
const claimTimeout = 500 * time.Millisecond

// Claim is what a pod's shim is told.
type Claim struct {
	// Key is the pool's.
	Key string
	// Namespace, ID and Address are as containerd gives them, Bundle is the working
	// directory and Env the environment.
	Namespace, ID, Address, Bundle string
	Env                            []string
	Debug                          bool
	// RunDir is the server's run directory.
	RunDir string
}

// answer is what the one who waits says to a claim.
type answer struct{ Refused string }

// confirmation is the last word: who has claimed has written down whom.
type confirmation struct{ Go bool }

// Claimed is one who waits, and has accepted a claim. It acts when that is confirmed.
type Claimed struct {
	// PID is the process's.
	PID  int
	conn *net.UnixConn
}

// Find connects to one who waits for a key: errdefs.ErrNotFound if there is none.
// The connection is to be given to Ask, or closed.
func (p *Pool) Find(key string) (*net.UnixConn, error) {
	entries, err := os.ReadDir(p.home(key))
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), socketExt) {
			continue
		}
		path := filepath.Join(p.home(key), e.Name())
		conn, derr := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
		if derr == nil {
			return conn, nil
		}
		err = errors.Join(err, derr)
	}
	return nil, fmt.Errorf("nobody waits for %s (%w): %w", key, err, errdefs.ErrNotFound)
}

// Ask makes a claim by a connection of Find, which it takes over, and hands a socket
// over with it. errdefs.ErrUnavailable if it was refused, or not answered in time.
func Ask(conn *net.UnixConn, claim Claim, socket *os.File) (_ *Claimed, err error) {
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("claim a machine: %w: %w", err, errdefs.ErrUnavailable), conn.Close())
		}
	}()
	pid, err := peerOf(conn)
	if err != nil {
		return nil, err
	}
	if err := conn.SetDeadline(time.Now().Add(claimTimeout)); err != nil {
		return nil, err
	}
	if err := writeMessage(conn, claim, socket); err != nil {
		return nil, err
	}
	var a answer
	if file, err := readMessage(conn, &a); err != nil {
		file.Close() // also of none
		return nil, err
	}
	if a.Refused != "" {
		return nil, fmt.Errorf("refused: %s", a.Refused)
	}
	return &Claimed{PID: pid, conn: conn}, nil
}

// Confirm has the other act on the claim, and returns when it does. After an error it
// may do so all the same.
func (c *Claimed) Confirm() error {
	err := c.conn.SetDeadline(time.Now().Add(claimTimeout))
	if err == nil {
		err = writeMessage(c.conn, confirmation{Go: true}, nil)
	}
	if err == nil {
		var file *os.File
		file, err = readMessage(c.conn, new(answer))
		file.Close() // also of none
	}
	if err != nil {
		return fmt.Errorf("confirm a claim: %w", err)
	}
	return nil
}

// Close hangs up: without a confirmation the claim has not been.
func (c *Claimed) Close() error { return c.conn.Close() }
