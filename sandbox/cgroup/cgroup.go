// Package cgroup puts a sandbox's processes on the host into the cgroup that
// containerd names for its pod, so that the pod's limits and accounts hold for
// them: the machine, the daemon that shares files with it, and the shim.
//
// A process joins before it starts the others, which then belong to the group
// from their first page on. Limits are the guest's to enforce, and the pod's own are on
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
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

const (
	// removeTime bounds the wait for processes that end to have left a group, and
	// removeInterval is how often it is looked whether they have.
	removeTime     = 5 * time.Second
	removeInterval = 10 * time.Millisecond
)

// Group is a cgroup, in each hierarchy that this host has.
type Group struct {
	hierarchies []hierarchy
	path        string // below each hierarchy's root
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

// Join moves the calling process into the group, which it makes.
func (g *Group) Join() error {
	for _, h := range g.hierarchies {
		if err := h.join(g.path, os.Getpid()); err != nil {
			return fmt.Errorf("joining the pod's cgroup: %w", errors.Join(err, g.Remove(context.Background())))
		}
	}
	return nil
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

// Vacate moves whoever is in the group to where New found the caller. Who is going to be
// killed is to leave it before: a process that dies can not, and for as long as that
// takes, which may be until the host's disk has taken what was mounted for it, the group
// stays.
func (g *Group) Vacate() error {
	var errs []error
	for _, h := range g.hierarchies {
		if _, err := h.empty(g.path); err != nil {
			errs = append(errs, fmt.Errorf("emptying the pod's cgroup: %w", err))
		}
	}
	return errors.Join(errs...)
}

// Remove is Vacate, and removes the group. It waits some seconds, and not longer than
// ctx, for who dies in it. It may be called again.
func (g *Group) Remove(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, removeTime)
	defer cancel()
	var errs []error
	for _, h := range g.hierarchies {
		if err := h.remove(ctx, g.path); err != nil {
			errs = append(errs, fmt.Errorf("removing the pod's cgroup: %w", err))
		}
	}
	return errors.Join(errs...)
}

// hierarchy is one mounted tree of cgroups.
type hierarchy struct {
	mount   string // where it is mounted
	home    string // the calling process's cgroup in it
	cpuset  bool   // a group of version 1 that has processors of its own to be given
	unified bool   // version 2
}

func (h hierarchy) dir(name string) string { return filepath.Join(h.mount, name) }

// join makes a group and moves a process into it.
func (h hierarchy) join(name string, pid int) error {
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
	return enter(dir, pid)
}

// remove empties a group and removes it. What was killed may take a moment to leave it,
// during which it can neither be moved nor is the group empty: version 1 has no event
// for the end of that.
func (h hierarchy) remove(ctx context.Context, name string) error {
	for {
		gone, err := h.empty(name)
		if gone || err != nil {
			return err
		}
		err = unix.Rmdir(h.dir(name))
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

// empty moves whoever is in a group to where New found the caller, and reports whether
// the group is gone.
func (h hierarchy) empty(name string) (gone bool, err error) {
	procs, err := os.ReadFile(filepath.Join(h.dir(name), "cgroup.procs"))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
		return true, nil // another has removed it, be it while it was being read
	}
	if err != nil {
		return false, err
	}
	var errs []error
	for field := range strings.FieldsSeq(string(procs)) {
		pid, err := strconv.Atoi(field)
		if err == nil {
			err = enter(h.dir(h.home), pid)
		}
		if err != nil && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, err)
		}
	}
	return false, errors.Join(errs...)
}

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
