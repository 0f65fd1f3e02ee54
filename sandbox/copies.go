package sandbox

import (
	"context"
	"fmt"

	agentv1 "github.com/hyperhq/hyper/proto/hyper/agent/v1"
	"github.com/hyperhq/hyper/sandbox/volume"
	"github.com/hyperhq/hyper/virtcontainers"
)

// copyVolumes makes the container's copies, before the container: its command may
// be in one.
func (c *Container) copyVolumes(ctx context.Context, agent *agentClient) (copies []*volume.Copy, err error) {
	defer func() {
		if err != nil {
			closeCopies(copies)
		}
	}()
	for _, v := range c.plan.Copies {
		// Room for an old and a new content beside each other.
		request := &agentv1.ChangeVolumeRequest{ContainerId: c.id, Target: v.Target, Size: 2 * volume.MaxSize}
		if err := agent.changeVolume(ctx, request); err != nil {
			return copies, fmt.Errorf("making the copy of volume %s: %w", v.Source, err)
		}
		filled := volume.New(v.Source, c.sender(agent, v), c.sandbox.volumeWatcher())
		copies = append(copies, filled)
		if err := filled.Sync(ctx); err != nil {
			return copies, err
		}
	}
	return copies, nil
}

func closeCopies(copies []*volume.Copy) {
	for _, one := range copies {
		one.Close()
	}
}

// followVolumes has the copies follow their volumes until the container is
// deleted.
func (c *Container) followVolumes(copies []*volume.Copy) {
	for _, one := range copies {
		c.sandbox.tasks.Go(func() { c.follow(one) })
	}
}

// follow ends with the container or the sandbox.
func (c *Container) follow(copied *volume.Copy) {
	ctx, cancel := context.WithCancel(c.deleting)
	defer cancel()
	defer context.AfterFunc(c.sandbox.life, cancel)()
	copied.Follow(ctx, func(err error) { c.log.WithError(err).Warn("a volume's change has not reached the container") })
}

// sender has the agent change the copy of a volume.
func (c *Container) sender(agent *agentClient, v virtcontainers.Volume) volume.Send {
	return func(ctx context.Context, changes []*agentv1.VolumeChange) error {
		for _, change := range changes {
			change.Uid, change.Gid = v.IDs.Owner(change.Uid, change.Gid)
		}
		return agent.changeVolume(ctx, &agentv1.ChangeVolumeRequest{ContainerId: c.id, Target: v.Target, Changes: changes})
	}
}

// volumeWatcher is the one of all the sandbox's copies, until Stop. It is nil if
// the host has none to spare.
func (s *Sandbox) volumeWatcher() *volume.Watcher {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.watcher != nil || s.stopped {
		return s.watcher
	}
	w, err := volume.NewWatcher()
	if err != nil {
		s.log.WithError(err).Warn("changes of volumes will not reach the guest")
		return nil
	}
	s.watcher = w
	return w
}

// closeWatcher follows the end of all copies.
func (s *Sandbox) closeWatcher() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.watcher != nil {
		s.watcher.Close()
		s.watcher = nil
	}
}
