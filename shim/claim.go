package shim

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"golang.org/x/sys/unix"

	"github.com/hyperhq/hyper/config"
	"github.com/hyperhq/hyper/sandbox"
	"github.com/hyperhq/hyper/sandbox/record"
	"github.com/hyperhq/hyper/shim/pool"
)

// poolKeyOf is what the pod of a bundle wants of the pool, as text, and empty if it
// wants nothing. What is wrong with the configuration is for Create to tell.
func poolKeyOf(i invocation, r request, bundle string) string {
	if r.configPath != "" {
		// start is a process of its own, and the server has it so too.
		if err := os.Setenv("HYPER_CONFIG", r.configPath); err != nil {
			return ""
		}
	}
	c, err := config.Load()
	if err != nil || !c.Pool.Enable {
		return ""
	}
	wants, ok := sandbox.WantsOfBundle(c, bundle)
	if !ok {
		return ""
	}
	mounts, err := os.Open("/proc/self/ns/mnt")
	if err != nil {
		return ""
	}
	defer mounts.Close()
	key, err := keyOf(c, i.Namespace, r.grpcAddress, wants, mounts)
	if err != nil {
		return ""
	}
	return poolPlace{Key: key, Wants: wants}.String()
}

func keyOf(c *config.Config, namespace, address string, wants sandbox.Wants, mounts *os.File) (string, error) {
	place, err := pool.PlaceOf(mounts)
	if err != nil {
		return "", err
	}
	return pool.Identity{Namespace: namespace, Address: address, Config: c, Wants: wants, Place: place}.Key()
}

// claim has a shim that waits in the pool become the server on l, as spawn starts one.
// kill is nil where none is to be had.
func claim(i invocation, r request, bundle, address string, l *net.UnixListener) (kill func() error, err error) {
	if i.Pool == "" {
		return nil, nil
	}
	place, err := parsePoolPlace(i.Pool)
	if err != nil {
		return nil, err
	}
	root := runRoot(os.Getenv)
	conn, err := pool.New(root).Find(place.Key)
	if errdefs.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	dir, err := makeRunDir(root, address)
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	socket, err := l.File()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("pass the socket on: %w", err), conn.Close(), dir.remove())
	}
	defer socket.Close()
	claimed, err := pool.Ask(conn, pool.Claim{
		Key: place.Key, Namespace: i.Namespace, ID: i.ID, Address: r.grpcAddress, Bundle: bundle,
		Env: serverEnvironment(r), Debug: r.debug, RunDir: string(dir),
	}, socket)
	if err != nil {
		// Another was quicker, or it is not what it was: a new one it is.
		log.L.WithError(err).Debug("a machine of the pool cannot be had")
		return nil, dir.remove()
	}
	defer claimed.Close()
	return confirm(claimed, dir)
}

// confirm records a server that has been claimed, and lets it act.
func confirm(claimed *pool.Claimed, dir runDir) (kill func() error, err error) {
	raiseOOMScore(claimed.PID)
	err = dir.recordServer(claimed.PID)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return nil, dir.remove() // it has ended just now
	}
	kill = func() error { return errors.Join(killServer(dir), dir.remove()) }
	if err != nil {
		return nil, errors.Join(fmt.Errorf("record the server: %w", err), kill())
	}
	if err := claimed.Confirm(); err != nil {
		// It may act or not: a new server must not meet it.
		log.L.WithError(err).Debug("a machine of the pool cannot be had")
		return nil, kill()
	}
	return kill, nil
}

// killServer kills the server of a run directory, and waits until it is gone.
func killServer(dir runDir) error {
	server, err := dir.server()
	if err != nil || server == nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), dyingTimeout)
	defer cancel()
	return record.KillAll(ctx, []*record.Handle{server})
}
