package shim

import (
	"context"
	"fmt"
	"io"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hyperhq/hyper/config"
	"github.com/hyperhq/hyper/sandbox/factory"
)

const (
	// buildAction is the action of a builder of templates.
	buildAction = "build-template"
	// A build, which gives way to all else on the host, may take buildBoots times as long
	// as a boot that somebody waits for, and buildTimeout if that is less.
	buildBoots   = 6
	buildTimeout = 3 * time.Minute
)

// buildTemplate is the builder: it builds what it is told on in.
func buildTemplate(in io.Reader) error {
	var kind factory.Kind
	if err := readRequest(in, &kind); err != nil {
		return err
	}
	// Of all threads there are; those to come have it from them.
	if err := unix.Setpriority(unix.PRIO_PGRP, 0, lowestPriority); err != nil {
		return fmt.Errorf("give way to others: %w", err)
	}
	c, err := config.Load()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), buildTime(c))
	defer cancel()
	return factory.Build(ctx, c, kind)
}

// buildTime is how long a build may take: longer where it is known that machines are slow.
func buildTime(c *config.Config) time.Duration {
	return max(buildTimeout, buildBoots*c.Sandbox.BootTimeout.Duration)
}
