package sandbox

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/hyperhq/hyper/proto/channel"
	agentv1 "github.com/hyperhq/hyper/proto/hyper/agent/v1"
	"github.com/hyperhq/hyper/sandbox/layers"
)

const (
	// saveTimeout bounds how long what a container has written may take to be saved,
	// and saveStall how long nothing of it may come.
	saveTimeout = 30 * time.Minute
	saveStall   = time.Minute
)

// saveChanges makes the snapshot's directory what the container has made of its root
// filesystem, where that is on disks. The container must be paused or have ended. When
// it fails the directory is as before.
func (c *Container) saveChanges(ctx context.Context) error {
	r := c.rootDisks
	if r == nil || r.upper == "" {
		return nil
	}
	select {
	case r.saving <- struct{}{}:
		defer func() { <-r.saving }()
	case <-ctx.Done():
		return fmt.Errorf("saving what container %s has written, which another does: %w", c.id, ctx.Err())
	}
	if c.init.State() == Stopped && c.init.Exit().Unchanged && !r.saved {
		return nil
	}
	agent, err := c.guest.call()
	if err != nil {
		return fmt.Errorf("saving what container %s has written: %w", c.id, err)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, saveTimeout, fmt.Errorf("it takes longer than %s", saveTimeout))
	defer cancel()
	request := &agentv1.SaveChangesRequest{ContainerId: c.id}
	// What was saved before may have been undone since.
	wanted := r.saved
	if !wanted {
		wanted, err = agent.changed(ctx, request)
	}
	if err == nil && wanted {
		err = c.receiveChanges(ctx, agent, request)
		r.saved = r.saved || err == nil
	}
	if err != nil {
		return fmt.Errorf("saving what container %s has written: %w", c.id, err)
	}
	return nil
}

func (c *Container) receiveChanges(ctx context.Context, agent *agentClient, request *agentv1.SaveChangesRequest) error {
	request.Stream = c.sandbox.nextStream.Add(1)
	stream, err := c.guest.session.Open(ctx, channel.Header{Kind: channel.Stdio, ID: request.Stream})
	if err != nil {
		return err
	}
	defer stream.Close()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(ctx, func() { stream.Close() })()
	sent := make(chan error, 1)
	go func() { // ends with the call, so with ctx
		err := agent.saveChanges(ctx, request)
		if err != nil {
			cancel(err)
		}
		sent <- err
	}()
	// Headers and padding of small files take more in an archive than on a disk.
	most := 2 * int64(c.sandbox.opts.Config.Rootfs.ScratchMiB) << 20
	// Before it is put in its place the guest must have said that it is all.
	err = layers.Replace(ctx, c.rootDisks.upper, steady{stream}, most, func() error { return <-sent })
	return errors.Join(err, ignoreCanceled(context.Cause(ctx)))
}

// steady reads from a stream on which something must come all the time.
type steady struct{ net.Conn }

func (s steady) Read(p []byte) (int, error) {
	if err := s.SetReadDeadline(time.Now().Add(saveStall)); err != nil {
		return 0, err
	}
	return s.Conn.Read(p)
}

func ignoreCanceled(err error) error {
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}
