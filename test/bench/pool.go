package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"
)

const (
	// awaitLimit bounds the wait for a machine that is being made ahead, awaitStep is how
	// often is looked.
	awaitLimit = time.Minute
	awaitStep  = 20 * time.Millisecond
	// awaitRest is how long the host is left alone then: who has made the machine has
	// just used its processors, and a user does not start a container at that moment.
	awaitRest = 300 * time.Millisecond
)

// await waits until a machine waits for the contestant's next start, if it is one of
// which that is measured.
func (c *contestant) await(ctx context.Context) error {
	if !c.waits {
		return nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, awaitLimit, errors.New("no machine is made ahead"))
	defer cancel()
	look := time.NewTicker(awaitStep)
	defer look.Stop()
	for {
		if found, _ := filepath.Glob(filepath.Join(c.cell.Dir, "run/pool/*/*.sock")); len(found) > 0 {
			time.Sleep(awaitRest)
			return nil
		}
		select {
		case <-look.C:
		case <-ctx.Done():
			return fmt.Errorf("waiting for a machine of the pool: %w", context.Cause(ctx))
		}
	}
}
