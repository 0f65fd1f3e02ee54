package sandbox

import "github.com/hyperhq/hyper/sandbox/layers"

// buildMissing starts the building of the image that the container would have had.
func (c *Container) buildMissing() {
	build := c.sandbox.opts.BuildImage
	if len(c.missing) == 0 || build == nil {
		return
	}
	if err := layers.CanBuild(); err != nil {
		c.log.WithError(err).Debug("no image of the container's layers can be built")
		return
	}
	if err := build(c.missing); err != nil {
		c.log.WithError(err).Warn("building the image of a container's layers")
	}
}
