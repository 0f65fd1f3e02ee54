package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"time"

	"github.com/containerd/containerd/api/types"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/hyperhq/hyper/config"
	agentv1 "github.com/hyperhq/hyper/proto/hyper/agent/v1"
	"github.com/hyperhq/hyper/sandbox/factory"
	"github.com/hyperhq/hyper/sandbox/layers"
	"github.com/hyperhq/hyper/virtcontainers"
)

// maxRootDisks is how many containers of a pod have their root filesystems on disks.
// With two places for devices each they leave half of those that a machine has to
// cards and block devices.
const maxRootDisks = 8

// guestRootfsDir is where the guest has the root filesystems that are on disks.
const guestRootfsDir = "/run/hyper/rootfs"

// rootDisks are the disks of one container's root filesystem: an image of its layers,
// which other machines may have too, and unless the container cannot write, a scratch
// disk of its own.
//
//	open ──attach──▶ disks of the machine ──release──▶ (gone)
//
// Neither has a name on the host, so that nothing is left of them whatever ends.
type rootDisks struct {
	image, scratch     *os.File // nil once the machine has them
	imageID, scratchID string   // scratchID is empty if there is none
	attached           []string
	// upper is the snapshot's directory of what was written, into which the
	// container's changes are to be saved; empty if nobody will look for them.
	upper string
	// saving has room for the one who saves. saved, which is theirs, says that there
	// are changes that were saved before.
	saving chan struct{}
	saved  bool
}

// close is for disks that are not to be attached. There may be none.
func (r *rootDisks) close() {
	if r == nil {
		return
	}
	for _, f := range []**os.File{&r.image, &r.scratch} {
		if *f != nil {
			(*f).Close()
			*f = nil
		}
	}
}

func (s *Sandbox) layerCache() layers.Cache {
	c := s.opts.Config.Rootfs
	return layers.Cache{Dir: c.Layers, MaxBytes: int64(c.LayersMiB) << 20}
}

// openRootDisks gives the disks for a container's root filesystem, or nil if it is to
// come by the share: nothing that is wrong here keeps a container from being made.
// Where only the image is missing, missing are the layers that it is of.
func (s *Sandbox) openRootDisks(ctx context.Context, c *Container, mounts []*types.Mount) (_ *rootDisks, missing []string) {
	overlay, err := s.diskable(c.spec, mounts)
	var key string
	if err == nil {
		key, err = layers.Key(overlay.Lower)
	}
	if err != nil {
		c.log.WithError(err).Debug("the root filesystem comes by the share")
		return nil, nil
	}
	cache := s.layerCache()
	if s.opts.Config.Rootfs.By == config.RootfsDisk || s.hasNoShare() {
		err = errors.Join(cache.Build(ctx, overlay.Lower), cache.MakeEmpty(ctx, s.opts.Config.Rootfs.ScratchMiB))
	}
	var disks *rootDisks
	if err == nil {
		disks, err = s.openDisks(c, cache, key, overlay)
	}
	if err != nil {
		level := log.DebugLevel
		if s.opts.Config.Rootfs.By == config.RootfsDisk {
			level = log.WarnLevel // that is not what was asked for
		}
		c.log.WithError(err).Log(level, "the root filesystem comes by the share")
	}
	if errors.Is(err, fs.ErrNotExist) && cache.Wanted(key) {
		missing = overlay.Lower
	}
	return disks, missing
}

// diskable gives the layers of a root filesystem that can be on disks. Else the error
// says why it cannot.
func (s *Sandbox) diskable(spec *specs.Spec, mounts []*types.Mount) (layers.Overlay, error) {
	c := s.opts.Config
	switch {
	case c.Rootfs.By == config.RootfsShare:
		return layers.Overlay{}, errors.New("the configuration says so")
	case c.Rootfs.By == config.RootfsAuto && virtcontainers.RoleOf(spec.Annotations) != virtcontainers.Alone:
		return layers.Overlay{}, errors.New("who runs the pod counts what its containers write to their snapshots")
	case c.QEMU.Machine == config.MachineMicroVM:
		return layers.Overlay{}, errors.New("a microvm takes no disks")
	case hasUserNamespace(spec):
		return layers.Overlay{}, errors.New("the container has a user namespace")
	case hasHostHooks(spec):
		return layers.Overlay{}, errors.New("hooks on the host may look for it in the bundle, or change it")
	}
	overlay, err := layers.OverlayOf(mounts)
	if err != nil {
		return layers.Overlay{}, err
	}
	if overlay.Upper == "" {
		if !isReadOnly(spec) {
			return layers.Overlay{}, errors.New("nothing can be written to the snapshot, and the container is not told so")
		}
		return overlay, nil
	}
	written, err := os.ReadDir(overlay.Upper)
	if err == nil && len(written) > 0 {
		err = errors.New("the snapshot has been written to")
	}
	return overlay, err
}

func isReadOnly(spec *specs.Spec) bool { return spec.Root != nil && spec.Root.Readonly }

func hasUserNamespace(spec *specs.Spec) bool {
	return spec.Linux != nil && slices.ContainsFunc(spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.UserNamespace })
}

// hasHostHooks says whether hooks run on the host before the container does.
func hasHostHooks(spec *specs.Spec) bool {
	//lint:ignore SA1019 containerd and its clients still give such hooks
	return spec.Hooks != nil && len(spec.Hooks.Prestart)+len(spec.Hooks.CreateRuntime) > 0
}

func (s *Sandbox) openDisks(c *Container, cache layers.Cache, key string, overlay layers.Overlay) (_ *rootDisks, err error) {
	n := s.rootfsMade.Add(1)
	r := &rootDisks{imageID: factory.ImageDisk(n), saving: make(chan struct{}, 1)}
	defer func() {
		if err != nil {
			r.close()
		}
	}()
	if r.image, err = cache.Open(key); err != nil {
		return nil, err
	}
	if isReadOnly(c.spec) {
		return r, nil
	}
	empty, err := cache.OpenEmpty(s.opts.Config.Rootfs.ScratchMiB)
	if err != nil {
		return nil, err
	}
	defer empty.Close()
	// Where the snapshot is there is the room that is meant for what is written.
	if r.scratch, err = layers.Copy(empty, filepath.Dir(overlay.Upper)); err != nil {
		return nil, err
	}
	r.scratchID = factory.ScratchDisk(n)
	// A container of a pod is made anew rather than started again, with a snapshot
	// of its own.
	if virtcontainers.RoleOf(c.spec.Annotations) == virtcontainers.Alone {
		r.upper = overlay.Upper
	}
	return r, nil
}

// boundRootDisksLocked has a container's root filesystem come by the share, if there is
// one and enough others of the pod have disks.
func (s *Sandbox) boundRootDisksLocked(c *Container) {
	if c.rootDisks == nil || s.guest == nil || !s.guest.share {
		return
	}
	n := 0
	for _, other := range s.containers {
		if other.rootDisks != nil {
			n++
		}
	}
	if n >= maxRootDisks {
		c.log.Debugf("the root filesystem comes by the share: %d containers of the pod have disks", n)
		c.rootDisks.close()
		c.rootDisks = nil
	}
}

// guestRootfs is where the guest has the root filesystem, empty if that is in the
// share.
func (c *Container) guestRootfs() string {
	if c.rootDisks == nil {
		return ""
	}
	return path.Join(guestRootfsDir, c.id, virtcontainers.RootfsTarget)
}

// rootfsMessage is what the agent is told of the disks, nil if there are none.
func (c *Container) rootfsMessage() *agentv1.Rootfs {
	if c.rootDisks == nil {
		return nil
	}
	return &agentv1.Rootfs{Image: c.rootDisks.imageID, Scratch: c.rootDisks.scratchID, Target: c.guestRootfs()}
}

// attachRootDisks gives the machine the disks of the root filesystem, once it is there.
// When it fails releaseRootDisks still must follow.
func (c *Container) attachRootDisks(ctx context.Context) error {
	r := c.rootDisks
	if r == nil {
		return nil
	}
	defer r.close() // the machine has descriptors of its own
	if err := c.guest.awaitPlugs(ctx); err != nil {
		return err
	}
	disks := []virtcontainers.Disk{{ID: r.imageID, File: r.image, ReadOnly: true}}
	if r.scratch != nil {
		disks = append(disks, virtcontainers.Disk{ID: r.scratchID, File: r.scratch})
	}
	ctx, cancel := context.WithTimeout(ctx, diskTimeout)
	defer cancel()
	begin := time.Now()
	for _, disk := range disks {
		r.attached = append(r.attached, disk.ID)
		if err := c.guest.machine.AttachDisk(ctx, disk); err != nil {
			return fmt.Errorf("giving container %s its root filesystem: %w", c.id, err)
		}
	}
	c.log.WithField("attached_ms", milliseconds(time.Since(begin))).Debug("the root filesystem is on disks")
	return nil
}

// releaseRootDisks takes the disks out of a machine that goes on. Nobody waits for
// it: the ids are not used again. The container must be out of the guest.
func (c *Container) releaseRootDisks() {
	r, s := c.rootDisks, c.sandbox
	if r == nil {
		return
	}
	r.close()
	attached := r.attached
	r.attached = nil
	if len(attached) == 0 || s.life.Err() != nil {
		return // a machine that ends takes them along
	}
	s.tasks.Go(func() {
		ctx, cancel := context.WithTimeout(s.life, diskTimeout)
		defer cancel()
		for _, id := range attached {
			err := c.guest.machine.DetachDisk(ctx, id)
			if err != nil && s.life.Err() == nil && !errdefs.IsUnavailable(err) && !errdefs.IsNotFound(err) {
				c.log.WithError(err).Warn("the machine keeps a disk of a root filesystem until it ends")
			}
		}
	})
}
