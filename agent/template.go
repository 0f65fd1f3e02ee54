package agent

import (
	"context"
	"runtime/debug"
	"time"
)

// fitTimeout bounds how long a guest may take until it is fit to be saved.
const fitTimeout = 30 * time.Second

// fit waits until the guest is fit for containers, and has nothing more to do by
// itself: what is saved then need not be done in a clone.
func (a *Agent) fit(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, fitTimeout)
	defer cancel()
	if err := a.ready(ctx); err != nil {
		return err
	}
	if err := a.modules.loaded(ctx); err != nil {
		return err
	}
	a.phases.mark("fit")
	// What the boot has used and no clone needs would be in each clone's memory.
	dropCaches(a.log)
	debug.FreeOSMemory()
	return nil
}

// dropCaches has the kernel free what it only keeps for speed. The image's files
// are no such thing: they live in memory and nowhere else.
func dropCaches(log *logger) {
	writeSetting(log, "/proc/sys/vm/drop_caches", "3")
	writeSetting(log, "/proc/sys/vm/compact_memory", "1")
}
