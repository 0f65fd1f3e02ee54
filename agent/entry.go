package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/moby/sys/capability"
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"golang.org/x/sys/unix"

	"github.com/hyperhq/hyper/agent/reexec"
)

// errUnusual is that of a process or a container which the usher cannot make.
var errUnusual = errors.New("it wants what only libcontainer does")

// enter has the usher run an exec, whose files are attached. Whatever the error,
// libcontainer can be asked for the same, but when ctx has ended.
func (c *container) enter(ctx context.Context, config *configs.Config, lp *libcontainer.Process) (*entered, error) {
	known, err := c.usher.capabilities()
	if err != nil {
		return nil, err
	}
	entry, err := entryOf(c.id, config, lp, known)
	if err != nil {
		return nil, err
	}
	init, err := c.init.dupPidfd()
	if err != nil {
		return nil, err
	}
	defer unix.Close(init)
	if err := c.isInOurUsers(); err != nil {
		return nil, err
	}
	dir, err := c.cgroup.open()
	if err != nil {
		return nil, err
	}
	defer unix.Close(dir)
	files := reexec.EntryFiles{Init: init, Cgroup: dir}
	release, err := addStdio(&files, lp)
	if err != nil {
		return nil, err
	}
	defer release()
	return c.usher.letIn(ctx, entry, files)
}

// addStdio adds the standard files of a process, of which those that it has not are null
// devices until release is called.
func addStdio(files *reexec.EntryFiles, lp *libcontainer.Process) (release func(), err error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	for _, f := range []struct {
		have any
		want *int
	}{{lp.Stdin, &files.Stdin}, {lp.Stdout, &files.Stdout}, {lp.Stderr, &files.Stderr}} {
		file, ok := f.have.(*os.File)
		if !ok {
			file = null
		}
		*f.want = int(file.Fd())
	}
	return func() { null.Close() }, nil
}

// isInOurUsers is errUnusual if the container's init has left the guest's user namespace,
// as it may do if it is able to: who enters then is libcontainer's to decide.
func (c *container) isInOurUsers() error {
	_, pid := c.init.current()
	var ours, theirs unix.Stat_t
	if err := unix.Stat("/proc/self/ns/user", &ours); err != nil {
		return fmt.Errorf("looking at the user namespace: %w", err)
	}
	if err := unix.Stat(fmt.Sprintf("/proc/%d/ns/user", pid), &theirs); err != nil {
		return fmt.Errorf("looking at the user namespace of container %s: %w", c.id, err)
	}
	if ours.Ino != theirs.Ino {
		return errUnusual
	}
	return nil
}

// entryOf translates an exec for the usher, as libcontainer would for its own process. It
// is errUnusual if there is anything to it that the usher does not know, or capabilities
// that are not among those known.
func entryOf(id string, config *configs.Config, lp *libcontainer.Process, known knownCapabilities) (*reexec.Entry, error) {
	if isUnusual(config, lp) {
		return nil, errUnusual
	}
	e := &reexec.Entry{
		Args: lp.Args, Directory: lp.Cwd, UID: uint32(lp.UID), GID: uint32(lp.GID),
		NoNewPrivileges: config.NoNewPrivileges, Umask: config.Umask, OOMScoreAdj: config.OomScoreAdj,
	}
	if lp.NoNewPrivileges != nil {
		e.NoNewPrivileges = *lp.NoNewPrivileges
	}
	if !config.NoNewKeyring {
		e.Keyring = "_ses." + id
	}
	for _, gid := range lp.AdditionalGroups {
		e.Groups = append(e.Groups, uint32(gid))
	}
	limits := config.Rlimits
	if len(lp.Rlimits) > 0 {
		limits = lp.Rlimits
	}
	for _, l := range limits {
		e.Limits = append(e.Limits, reexec.Limit{Resource: l.Type, Soft: l.Soft, Hard: l.Hard})
	}
	var ok bool
	if e.Environment, e.FindHome, ok = entryEnvironment(lp.Env); !ok {
		return nil, errUnusual
	}
	caps := lp.Capabilities
	if caps == nil {
		caps = config.Capabilities
	}
	if !known.set(e, caps) {
		return nil, errUnusual
	}
	return e, nil
}

func isUnusual(config *configs.Config, lp *libcontainer.Process) bool {
	switch {
	case !config.Namespaces.Contains(configs.NEWNS),
		config.Namespaces.Contains(configs.NEWUSER),
		config.Namespaces.Contains(configs.NEWTIME),
		config.RootlessEUID, config.RootlessCgroups,
		config.Seccomp != nil, config.Personality != nil, config.MemoryPolicy != nil, config.IntelRdt != nil,
		config.Scheduler != nil || lp.Scheduler != nil,
		config.IOPriority != nil || lp.IOPriority != nil,
		config.ExecCPUAffinity != nil || lp.CPUAffinity != nil,
		config.AppArmorProfile != "" || lp.AppArmorProfile != "",
		config.ProcessLabel != "" || lp.Label != "",
		lp.ConsoleSocket != nil, len(lp.ExtraFiles) > 0, len(lp.SubCgroupPaths) > 0:
		return true
	}
	return false
}

// entryEnvironment leaves the last of several variables of a name, and says whether HOME
// is to be found. It is not ok if there is anything that is no variable.
func entryEnvironment(env []string) (out []string, findHome, ok bool) {
	findHome = true
	seen := make(map[string]bool, len(env))
	for _, variable := range slices.Backward(env) {
		name, value, isVariable := strings.Cut(variable, "=")
		if !isVariable || name == "" {
			return nil, false, false
		}
		if seen[name] {
			continue
		}
		seen[name] = true
		if name == "HOME" {
			if value == "" {
				continue
			}
			findHome = false
		}
		out = append(out, variable)
	}
	slices.Reverse(out)
	return out, findHome, true
}

// knownCapabilities has the bit of each capability that the kernel has, by its name in the
// OCI spec.
type knownCapabilities map[string]uint64

func listCapabilities() (knownCapabilities, error) {
	list, err := capability.ListSupported()
	if err != nil {
		return nil, fmt.Errorf("listing the kernel's capabilities: %w", err)
	}
	known := make(knownCapabilities, len(list))
	for _, c := range list {
		known["CAP_"+strings.ToUpper(c.String())] = 1 << uint(c)
	}
	return known, nil
}

// set gives e the capabilities. It is false if one of them is not known.
func (known knownCapabilities) set(e *reexec.Entry, caps *configs.Capabilities) bool {
	if caps == nil {
		return false
	}
	for _, set := range []struct {
		names []string
		bits  *uint64
	}{
		{caps.Bounding, &e.Bounding}, {caps.Effective, &e.Effective}, {caps.Permitted, &e.Permitted},
		{caps.Inheritable, &e.Inheritable}, {caps.Ambient, &e.Ambient},
	} {
		for _, name := range set.names {
			bit, ok := known[name]
			if !ok {
				return false
			}
			*set.bits |= bit
		}
	}
	return true
}
