package agent

import (
	"context"
	"runtime/debug"
	"time"

	"golang.org/x/sys/unix"
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
	// Containers start without these too, only later.
	if err := a.usher.ready(ctx); err != nil {
		a.log.infof("%v", err)
	}
	if err := a.startSpare(ctx); err != nil {
		a.log.infof("%v", err)
	}
	if err := a.devices.prepare(); err != nil {
		a.log.infof("%v", err)
	}
	if err := makePercpuRoom(); err != nil {
		a.log.infof("%v", err)
	}
	if err := a.known.learn(blockClass); err != nil {
		a.log.infof("%v", err)
	}
	// Most have it in this size.
	if err := a.guest.setShm(usualShm); err != nil {
		a.log.infof("%v", err)
	}
	if err := a.warm(ctx); err != nil {
		a.log.infof("%v", err)
	}
	a.phases.mark("fit")
	// What the boot has used and no clone needs would be in each clone's memory.
	dropCaches(a.log)
	debug.FreeOSMemory()
	if err := clearFree(); err != nil {
		// Only the template is larger for it.
		a.log.infof("clearing free memory: %v", err)
	}
	return nil
}

const (
	// clearStep is how much memory is cleared at a time, clearMost how much in all, and
	// clearSpare what is left alone, in bytes.
	clearStep  = 4 << 20
	clearMost  = 1 << 30
	clearSpare = 24 << 20
)

// clearFree fills with zeros what memory is free: what the image was unpacked from,
// for the most part. Pages of zeros are not stored, and no clone has them.
func clearFree() error {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return err
	}
	free := uint64(info.Freeram) * uint64(info.Unit)
	if free <= clearSpare {
		return nil
	}
	size := min(free-clearSpare, clearMost) / clearStep * clearStep
	memory, err := unix.Mmap(-1, 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Munmap(memory) }()
	for at := 0; at < len(memory); at += clearStep {
		if err := unix.Sysinfo(&info); err != nil || uint64(info.Freeram)*uint64(info.Unit) < clearSpare {
			return err
		}
		if err := unix.Madvise(memory[at:at+clearStep], unix.MADV_POPULATE_WRITE); err != nil {
			return err
		}
	}
	return nil
}

// dropCaches has the kernel free what it only keeps for speed. The image's files
// are no such thing: they live in memory and nowhere else.
func dropCaches(log *logger) {
	writeSetting(log, "/proc/sys/vm/drop_caches", "3")
	writeSetting(log, "/proc/sys/vm/compact_memory", "1")
}
