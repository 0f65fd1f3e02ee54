package sandbox

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/hyperhq/hyper/config"
	"github.com/hyperhq/hyper/proto/channel"
	agentv1 "github.com/hyperhq/hyper/proto/hyper/agent/v1"
	"github.com/hyperhq/hyper/sandbox/layers"
	"github.com/hyperhq/hyper/sandbox/rehearsal"
	"github.com/hyperhq/hyper/virtcontainers"
)

const (
	// rehearsalID names the container of a rehearsal, rehearsalImage and
	// rehearsalScratch its disks.
	rehearsalID      = "rehearsal"
	rehearsalImage   = "rehearsalimage"
	rehearsalScratch = "rehearsalscratch"
	// rehearsalStream is where the numbers of its streams begin: a sandbox's own begin
	// at 1.
	rehearsalStream = 1 << 62
	// rehearsals is how many there are. The first does most, two more a tenth: see
	// docs/decisions/a-pool-of-parked-shims.md.
	rehearsals = 3
)

// identify gives the guest what makes it differ from others of its template.
func (p *Parked) identify(ctx context.Context) error {
	entropy, err := newEntropy()
	if err != nil {
		return err
	}
	_, err = p.agent.configure(ctx, &agentv1.ConfigureRequest{
		Now: timestamppb.Now(), Hostname: rehearsalID, Entropy: entropy, ShmSize: defaultSHM,
	})
	if err != nil {
		return fmt.Errorf("configuring the guest: %w", err)
	}
	return p.agent.setClock(ctx, &agentv1.SetClockRequest{Now: timestamppb.Now()})
}

// rehearse has the guest run containers, by the calls and on the disks that the first
// of its sandbox will have. Of them nothing is left but what host and guest have
// learnt: programs in the page cache, and translated where the guest is emulated.
func (p *Parked) rehearse(ctx context.Context, c *config.Config) error {
	// First, so that nothing that it draws is another's too.
	if err := p.identify(ctx); err != nil {
		return err
	}
	for range rehearsals {
		if err := p.rehearseOnce(ctx, c); err != nil {
			return fmt.Errorf("rehearsing a container: %w", err)
		}
	}
	return nil
}

func (p *Parked) rehearseOnce(ctx context.Context, c *config.Config) error {
	detach, err := p.attachRehearsal(ctx, c)
	if err != nil {
		return err
	}
	if err := p.runRehearsal(ctx); err != nil {
		return err
	}
	if err := detach(ctx); err != nil {
		return err
	}
	return p.agent.prepare(ctx)
}

// attachRehearsal gives the machine the disks of a container's root filesystem.
func (p *Parked) attachRehearsal(ctx context.Context, c *config.Config) (detach func(context.Context) error, err error) {
	cache := layers.Cache{Dir: c.Rootfs.Layers, MaxBytes: int64(c.Rootfs.LayersMiB) << 20}
	if err := cache.MakeEmpty(ctx, c.Rootfs.ScratchMiB); err != nil {
		return nil, err
	}
	image, err := cache.MakeImageOf(ctx, rehearsal.Files())
	if err != nil {
		return nil, err
	}
	defer image.Close()
	empty, err := cache.OpenEmpty(c.Rootfs.ScratchMiB)
	if err != nil {
		return nil, err
	}
	defer empty.Close()
	scratch, err := layers.Copy(empty, c.Rootfs.Layers)
	if err != nil {
		return nil, err
	}
	defer scratch.Close()
	disks := []virtcontainers.Disk{{ID: rehearsalImage, File: image, ReadOnly: true}, {ID: rehearsalScratch, File: scratch}}
	for _, disk := range disks {
		if err := p.machine.AttachDisk(ctx, disk); err != nil {
			return nil, err
		}
	}
	return func(ctx context.Context) error {
		for _, disk := range disks {
			if err := p.machine.DetachDisk(ctx, disk.ID); err != nil {
				return err
			}
		}
		return nil
	}, nil
}

// runRehearsal runs the container on the disks that are attached, from its making to
// its deletion.
func (p *Parked) runRehearsal(ctx context.Context) error {
	request, err := rehearsalRequest()
	if err != nil {
		return err
	}
	var streams []net.Conn
	defer func() {
		for _, s := range streams {
			s.Close()
		}
	}()
	for _, id := range []uint64{request.Streams.Stdin, request.Streams.Stdout, request.Streams.Stderr} {
		stream, err := p.session.Open(ctx, channel.Header{Kind: channel.Stdio, ID: id})
		if err != nil {
			return err
		}
		streams = append(streams, stream)
	}
	stdout := streams[1]
	if err := p.agent.createContainer(ctx, request); err != nil {
		return err
	}
	said := make(chan string, 1)
	go func() { // ends with the stream
		text, _ := io.ReadAll(io.LimitReader(stdout, 64))
		said <- string(text)
	}()
	ref := &agentv1.ProcessRef{ContainerId: rehearsalID}
	if err := p.agent.start(ctx, ref); err != nil {
		return err
	}
	exit, err := p.agent.wait(ctx, ref)
	if err != nil {
		return err
	}
	if err := p.agent.delete(ctx, ref); err != nil {
		return err
	}
	select {
	case text := <-said:
		if exit.Status != 0 || text != rehearsal.Word {
			return fmt.Errorf("its program exited with %d and said %q", exit.Status, text)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("waiting for its output: %w", ctx.Err())
	}
}

func rehearsalRequest() (*agentv1.CreateContainerRequest, error) {
	target := path.Join(guestRootfsDir, rehearsalID, virtcontainers.RootfsTarget)
	plan, err := virtcontainers.NewPlan(rehearsal.Spec(), virtcontainers.Placement{
		ID:           rehearsalID,
		Bundle:       os.DevNull, // it has nothing there
		GuestDir:     guestDir(rehearsalID),
		GuestRootfs:  target,
		GuestVolumes: path.Join(guestVolumes, rehearsalID),
		GuestSHM:     guestSHM,
		Sandbox:      rehearsalID,
		First:        true,
	})
	if err != nil {
		return nil, err
	}
	spec, err := json.Marshal(plan.Guest)
	if err != nil {
		return nil, fmt.Errorf("encoding the guest's configuration: %w", err)
	}
	return &agentv1.CreateContainerRequest{
		ContainerId: rehearsalID,
		Spec:        spec,
		Streams:     &agentv1.Streams{Stdin: rehearsalStream, Stdout: rehearsalStream + 1, Stderr: rehearsalStream + 2},
		Rootfs:      &agentv1.Rootfs{Image: rehearsalImage, Scratch: rehearsalScratch, Target: target},
	}, nil
}
