// Package cgroup puts a sandbox's processes on the host into the cgroup that
// containerd names for its pod, so that the pod's limits and accounts hold for
// them: the machine, the daemon that shares files with it, and the shim.
//
// A process joins before it starts the others, which then belong to the group
// from their first page on. A group that is joined is that sandbox's alone until it is
// removed, or its shim is no more: who ends moves all out that are in it, and must not
// find another's. Limits are the guest's to enforce, and the pod's own are on
// the group's parent. Only the processor time of a sandbox that is in no pod is bounded
// here, so that a guest does not use processors which it was not told to.
package cgroup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

const (
	// removeTime bounds the wait for processes that end to have left a group, and
	// removeInterval is how often it is looked whether they have.
	removeTime     = 5 * time.Second
	removeInterval = 10 * time.Millisecond
	// joinTime bounds the wait for another sandbox that leaves a group: as one with the
	// same name may, which is made again at once.
	joinTime = 10 * time.Second
	// inheritTime bounds the wait for a claim that who is killed still has.
	inheritTime = 2 * time.Second
)

// Group is a cgroup, in each hierarchy that this host has.
type Group struct {
	hierarchies []hierarchy
	path        string // below each hierarchy's root

	ending sync.Mutex // of several who end a sandbox at once, one at a time
	claim  *os.File   // while the group is ours: see claim.go
}

// New is the group that an OCI configuration's linux.cgroupsPath names, which may
// be in systemd's form, "slice:prefix:name". It touches nothing. A name that leads
// elsewhere is an errdefs.ErrInvalidArgument.
func New(cgroupsPath string) (*Group, error) {
	name, err := expand(cgroupsPath)
	if err != nil {
		return nil, err
	}
	hs, err := findHierarchies("/proc/self")
	if err != nil {
		return nil, err
	}
	return &Group{hierarchies: hs, path: name}, nil
}

// expand gives a path below a hierarchy's root.
func expand(cgroupsPath string) (string, error) {
	name := cgroupsPath
	if parts := strings.Split(cgroupsPath, ":"); len(parts) == 3 {
		slice, err := expandSlice(parts[0])
		if err != nil {
			return "", err
		}
		if strings.Contains(parts[1]+parts[2], "/") {
			return "", fmt.Errorf("linux.cgroupsPath %q names no unit: %w", cgroupsPath, errdefs.ErrInvalidArgument)
		}
		name = path.Join(slice, parts[1]+"-"+parts[2]+".scope")
	}
	for element := range strings.SplitSeq(name, "/") {
		if element == ".." {
			return "", fmt.Errorf("linux.cgroupsPath %q leads elsewhere: %w", cgroupsPath, errdefs.ErrInvalidArgument)
		}
	}
	name = path.Clean("/" + name)
	if name == "/" {
		return "", fmt.Errorf("linux.cgroupsPath %q is no cgroup for a sandbox: %w", cgroupsPath, errdefs.ErrInvalidArgument)
	}
	return name, nil
}

// expandSlice gives the path of a slice, whose name holds those of its parents:
// a-b.slice is in a.slice. See systemd.slice(5).
func expandSlice(slice string) (string, error) {
	name, ok := strings.CutSuffix(slice, ".slice")
	if !ok || name == "" || strings.Contains(name, "/") {
		return "", fmt.Errorf("linux.cgroupsPath: %q is no slice: %w", slice, errdefs.ErrInvalidArgument)
	}
	if name == "-" {
		return "", nil
	}
	var dir, prefix string
	for part := range strings.SplitSeq(name, "-") {
		if part == "" {
			return "", fmt.Errorf("linux.cgroupsPath: %q is no slice: %w", slice, errdefs.ErrInvalidArgument)
		}
		dir = path.Join(dir, prefix+part+".slice")
		prefix += part + "-"
	}
	return dir, nil
}

// Join makes the group, if it is not there, and moves the calling process into it. It
// waits some seconds, and not longer than ctx, for those who leave it. A group with
// processes of others in it is an errdefs.ErrFailedPrecondition, and is left to them.
func (g *Group) Join(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, joinTime)
	defer cancel()
	for {
		err := g.join(ctx)
		if err == nil {
			return nil
		}
		// Who removes an unclaimed one may have looked before we were in it.
		if lerr := g.leave(); lerr != nil || !removed(err) || !pause(ctx) {
			return fmt.Errorf("joining the pod's cgroup %s: %w", g.path, errors.Join(err, lerr))
		}
	}
}

func (g *Group) join(ctx context.Context) error {
	if err := g.awaitClaim(ctx); err != nil {
		return err
	}
	for _, h := range g.hierarchies[1:] {
		if err := h.awaitMake(ctx, g.path); err != nil {
			return err
		}
	}
	if err := g.awaitOthers(ctx); err != nil {
		return err
	}
	for _, h := range g.hierarchies {
		if err := enter(h.dir(g.path), os.Getpid()); err != nil {
			return err
		}
	}
	return nil
}

// leave undoes a join that has failed: nobody else is moved.
func (g *Group) leave() error {
	if g.claim == nil {
		return nil // it is another's, and we have not been in it
	}
	var errs []error
	for _, h := range g.hierarchies {
		errs = append(errs, enter(h.dir(h.home), os.Getpid()))
		if err := unix.Rmdir(h.dir(g.path)); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.EBUSY) {
			errs = append(errs, &fs.PathError{Op: "rmdir", Path: h.dir(g.path), Err: err})
		}
	}
	return errors.Join(append(errs, g.release())...)
}

// Add moves another process into the group, which has been joined. One that has ended
// is no error.
func (g *Group) Add(pid int) error {
	for _, h := range g.hierarchies {
		if err := enter(h.dir(g.path), pid); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("moving process %d into the pod's cgroup: %w", pid, err)
		}
	}
	return nil
}

// Vacate moves whoever is in the group, which has been joined, to where New found the
// caller. Who is going to be killed is to leave it before: a process that dies can not,
// and for as long as that takes, which may be until the host's disk has taken what was
// mounted for it, the group stays. Once removed it may be another's, and is left to that.
func (g *Group) Vacate() error {
	g.ending.Lock()
	defer g.ending.Unlock()
	if g.claim == nil {
		return nil
	}
	var errs []error
	for _, h := range g.hierarchies {
		if _, err := h.empty(g.path, everyone); err != nil {
			errs = append(errs, fmt.Errorf("emptying the pod's cgroup: %w", err))
		}
	}
	return errors.Join(errs...)
}

// MoveOut moves those of some processes that are in the group, and those in it that they
// have started, to where New found the caller. It is for who is going to kill them and has
// not joined: see Vacate.
func (g *Group) MoveOut(pids []int) error {
	var errs []error
	for _, h := range g.hierarchies {
		if _, err := h.empty(g.path, func(pid int) bool { return descends(pid, pids) }); err != nil {
			errs = append(errs, fmt.Errorf("moving processes out of the pod's cgroup: %w", err))
		}
	}
	return errors.Join(errs...)
}

// Remove is Vacate, and removes the group. It waits some seconds, and not longer than
// ctx, for who dies in it. It may be called again, and by others than who has joined, for
// a sandbox whose processes have been killed: a group that has become another's is left to
// that.
func (g *Group) Remove(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, removeTime)
	defer cancel()
	g.ending.Lock()
	defer g.ending.Unlock()
	ours, err := g.inherit(ctx)
	if err != nil {
		return fmt.Errorf("removing the pod's cgroup: %w", err)
	}
	if !ours {
		return nil
	}
	var errs []error
	// The one that holds the claim last.
	for _, h := range slices.Backward(g.hierarchies) {
		if err := h.remove(ctx, g.path, g.claim != nil); err != nil {
			errs = append(errs, fmt.Errorf("removing the pod's cgroup: %w", err))
		}
	}
	return errors.Join(append(errs, g.release())...)
}

// hierarchy is one mounted tree of cgroups.
type hierarchy struct {
	mount   string // where it is mounted
	home    string // the calling process's cgroup in it
	cpuset  bool   // a group of version 1 that has processors of its own to be given
	unified bool   // version 2
}

func (h hierarchy) dir(name string) string { return filepath.Join(h.mount, name) }

// make makes a group, in which processes can be.
func (h hierarchy) make(name string) error {
	dir := h.mount
	for element := range strings.SplitSeq(strings.Trim(name, "/"), "/") {
		parent := dir
		dir = filepath.Join(dir, element)
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		if h.cpuset {
			if err := inheritProcessors(parent, dir); err != nil {
				return err
			}
		}
	}
	if h.unified {
		h.delegate(name)
	}
	return nil
}

// remove removes a group, and empties it if it is claimed: one that is not may become
// another's meanwhile, and is left to that. What was killed may take a moment to leave it,
// during which it can neither be moved nor is the group empty: version 1 has no event
// for the end of that.
func (h hierarchy) remove(ctx context.Context, name string, claimed bool) error {
	for {
		if claimed {
			if gone, err := h.empty(name, everyone); gone || err != nil {
				return err
			}
		} else if others, err := h.others(name); len(others) > 0 || err != nil {
			return err
		}
		err := unix.Rmdir(h.dir(name))
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if !errors.Is(err, unix.EBUSY) || ctx.Err() != nil {
			return &fs.PathError{Op: "rmdir", Path: h.dir(name), Err: err}
		}
		select {
		case <-time.After(removeInterval):
		case <-ctx.Done():
		}
	}
}

// empty moves those in a group who are to leave it to where New found the caller, and
// reports whether the group is gone.
func (h hierarchy) empty(name string, leaves func(pid int) bool) (gone bool, err error) {
	pids, err := h.processes(name)
	if err != nil {
		if removed(err) {
			return true, nil
		}
		return false, err
	}
	var errs []error
	for _, pid := range pids {
		if !leaves(pid) {
			continue
		}
		if err := enter(h.dir(h.home), pid); err != nil && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, err)
		}
	}
	return false, errors.Join(errs...)
}

func everyone(int) bool { return true }

// processes are those in a group. If another has removed it, be it while it was being
// read, the error is one of removed's.
func (h hierarchy) processes(name string) ([]int, error) {
	procs, err := os.ReadFile(filepath.Join(h.dir(name), "cgroup.procs"))
	if err != nil {
		return nil, err
	}
	var pids []int
	for field := range strings.FieldsSeq(string(procs)) {
		pid, err := strconv.Atoi(field)
		if err != nil {
			return nil, fmt.Errorf("reading who is in %s: %w", h.dir(name), err)
		}
		pids = append(pids, pid)
	}
	return pids, nil
}

// removed tells by the error of what was done to a group that the group is not there.
func removed(err error) bool { return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) }

func enter(dir string, pid int) error {
	return os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0)
}

// inheritProcessors gives a new group its parent's processors and memory nodes: of
// itself it has none, and can hold no process. See cpuset(7).
func inheritProcessors(parent, dir string) error {
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		has, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			return err
		}
		if len(bytes.TrimSpace(has)) > 0 {
			continue
		}
		value, err := os.ReadFile(filepath.Join(parent, file))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, file), value, 0); err != nil {
			return err
		}
	}
	return nil
}
