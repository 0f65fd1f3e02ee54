package sandbox

import (
	"path/filepath"

	"github.com/hyperhq/hyper/sandbox/layers"
)

// buildMissing starts the building of the image that the container would have had.
// The builder is a process of its own, in no cgroup of the pod: a container may be
// over before its image is built.
func (c *Container) buildMissing() {
	if len(c.missing) == 0 || c.sandbox.opts.ImageBuilder == nil {
		return
	}
	if err := layers.CanBuild(); err != nil {
		c.log.WithError(err).Debug("no image of the container's layers can be built")
		return
	}
	builder := c.sandbox.opts.ImageBuilder(c.missing, []string{c.sandbox.share.dir, filepath.Dir(c.bundle)})
	if err := builder.Start(); err != nil {
		c.log.WithError(err).Warn("building the image of a container's layers")
		return
	}
	// It ends with the builder, or else with this process.
	go func() { _ = builder.Wait() }()
	if group := c.guest.cgroup; group != nil {
		if err := group.Expel(builder.Process.Pid); err != nil {
			c.log.WithError(err).Warn("building the image of a container's layers")
		}
	}
}
