package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// A group is claimed by the lock of its directory in the first hierarchy, which the kernel
// lets go when the shim that has it ends, however that comes about. What a killed shim has
// left in a group is so anybody's to clean up, and what lives in it nobody else's.

// errTaken says that another sandbox has the claim.
var errTaken = fmt.Errorf("another sandbox is in it: give each a linux.cgroupsPath of its own: %w", errdefs.ErrFailedPrecondition)

// awaitClaim makes the group and claims it. It waits until ctx ends for another sandbox to
// let it go: neither locks nor groups have events for that.
func (g *Group) awaitClaim(ctx context.Context) error {
	for {
		if err := g.hierarchies[0].awaitMake(ctx, g.path); err != nil {
			return err
		}
		claimed, err := g.tryClaim()
		if claimed {
			return nil
		}
		if err != nil && !removed(err) { // who had it has removed it
			return err
		}
		if !pause(ctx) {
			return errTaken
		}
	}
}

// awaitMake makes the group in a hierarchy, again until ctx ends if another removes it, or
// one that it is in, meanwhile.
func (h hierarchy) awaitMake(ctx context.Context, name string) error {
	for {
		if err := h.make(name); err == nil || !removed(err) || !pause(ctx) {
			return err
		}
	}
}

// tryClaim claims the group unless another has done so. A group that is not there is an
// fs.ErrNotExist.
func (g *Group) tryClaim() (bool, error) {
	dir := g.hierarchies[0].dir(g.path)
	f, err := os.Open(dir)
	if err != nil {
		return false, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return false, nil
		}
		return false, &fs.PathError{Op: "flock", Path: dir, Err: err}
	}
	// Another may have removed it before we had the lock, and a third made it again.
	mine, err := f.Stat()
	if err == nil {
		var there fs.FileInfo
		if there, err = os.Stat(dir); err == nil && os.SameFile(mine, there) {
			g.claim = f
			return true, nil
		}
	}
	f.Close()
	return false, err
}

// release lets the claim go.
func (g *Group) release() error {
	if g.claim == nil {
		return nil
	}
	err := g.claim.Close()
	g.claim = nil
	return err
}

// inherit claims the group for who is to remove it, and says whether that may be done: not
// if somebody lives in it who has claimed it meanwhile. It waits for a shim that is being
// killed, which may keep its claim until the host's disk lets it die. Who else claims a
// group is in it at once, so that one in which nobody is seen to live may be removed
// without the claim; as may what is left of one in other hierarchies than the first.
func (g *Group) inherit(ctx context.Context) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, inheritTime)
	defer cancel()
	for g.claim == nil {
		claimed, err := g.tryClaim()
		if claimed || removed(err) {
			break
		}
		if err != nil {
			return false, err
		}
		others, err := g.others()
		if err != nil || len(others) > 0 {
			return false, err
		}
		if !pause(ctx) {
			break
		}
	}
	return true, nil
}

// awaitOthers waits until ctx ends for processes that are in the group to leave it. It
// does not wait for those that are dying there.
func (g *Group) awaitOthers(ctx context.Context) error {
	for {
		others, err := g.others()
		if err != nil || len(others) == 0 {
			return err
		}
		if !pause(ctx) {
			return fmt.Errorf("there are processes in it that are not this sandbox's (%s): end them, or give the sandbox another linux.cgroupsPath: %w",
				strings.Join(others, ", "), errdefs.ErrFailedPrecondition)
		}
	}
}

// others names the processes in the group that live, but for the calling one.
func (g *Group) others() ([]string, error) {
	var names []string
	for _, h := range g.hierarchies {
		found, err := h.others(g.path)
		if err != nil {
			return nil, err
		}
		for _, name := range found {
			if !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	return names, nil
}

func (h hierarchy) others(group string) ([]string, error) {
	pids, err := h.processes(group)
	if err != nil && !removed(err) {
		return nil, err
	}
	var names []string
	for _, pid := range pids {
		if name, lives := look(pid); lives && pid != os.Getpid() {
			names = append(names, name)
		}
	}
	return names, nil
}

// pause waits a moment, and reports whether ctx goes on.
func pause(ctx context.Context) bool {
	select {
	case <-time.After(removeInterval):
		return true
	case <-ctx.Done():
		return false
	}
}
