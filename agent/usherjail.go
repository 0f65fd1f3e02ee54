package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/fs2"
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runc/libcontainer/configs/validate"
	"github.com/opencontainers/runc/libcontainer/system"
	"golang.org/x/sys/unix"

	"github.com/containerd/errdefs"

	"github.com/hyperhq/hyper/agent/reexec"
)

// usherJail is a container that the usher has made. libcontainer does not know of it before
// something is wanted that only libcontainer does: then it is told, in its own words.
type usherJail struct {
	id      string
	dir     string // for libcontainer, made when it is told
	made    *configs.Config
	manager *fs2.Manager
	pid     int
	created time.Time
	status  *net.UnixConn           // to the init, which waits; nil once it does not
	lc      *libcontainer.Container // nil until it is told
}

// makeByUsher has the usher make the container with its init, whose files are attached.
// Whatever the error, nothing of it is left but directories in the root file system, and
// libcontainer can be asked for the same, but when ctx has ended.
func (c *container) makeByUsher(ctx context.Context, config *configs.Config) (err error) {
	known, err := c.usher.capabilities()
	if err != nil {
		return err
	}
	blueprint, err := blueprintOf(c.id, config, c.init.lp, known)
	if err != nil {
		return err
	}
	if err := validate.Validate(config); err != nil {
		return err
	}
	manager, err := c.makeCgroup(config)
	if err != nil {
		return err
	}
	made, status, err := c.buildIn(ctx, config, blueprint)
	if err != nil {
		return errors.Join(err, c.unmakeCgroup())
	}
	c.init.run = made
	c.jail = &usherJail{
		id: c.id, dir: filepath.Join(c.stateDir, c.id), made: config, manager: manager,
		pid: made.Process.Pid, created: time.Now().UTC(), status: status,
	}
	return nil
}

// makeCgroup makes the container's cgroup with its limits, as libcontainer would. It is
// errUnusual if it is there already.
func (c *container) makeCgroup(config *configs.Config) (_ *fs2.Manager, err error) {
	dir := string(c.cgroup)
	manager, err := fs2.NewManager(config.Cgroups, dir)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return nil, err
	}
	// It must be ours alone, as it goes with all who are in it if the container cannot be made.
	if err := os.Mkdir(dir, 0o755); errors.Is(err, fs.ErrExist) {
		return nil, errUnusual
	} else if err != nil {
		return nil, err
	}
	// Its controllers.
	err = fs2.CreateCgroupPath(dir, config.Cgroups)
	if err == nil {
		err = manager.Set(config.Cgroups.Resources)
	}
	if err != nil {
		return nil, errors.Join(err, manager.Destroy())
	}
	return manager, nil
}

// unmakeCgroup removes the cgroup, with whoever may be in it.
func (c *container) unmakeCgroup() error {
	ctx, cancel := context.WithTimeout(context.Background(), killTime)
	defer cancel()
	if err := c.cgroup.kill(); err != nil {
		return err
	}
	if err := c.cgroup.waitEmpty(ctx); err != nil {
		return err
	}
	return cgroups.RemovePath(string(c.cgroup))
}

// buildIn has the usher make the container's init in the cgroup. It returns when that
// waits to execute the container's program.
func (c *container) buildIn(ctx context.Context, config *configs.Config, blueprint *reexec.Build) (*entered, *net.UnixConn, error) {
	group, err := c.cgroup.open()
	if err != nil {
		return nil, nil, err
	}
	defer unix.Close(group)
	files := reexec.EntryFiles{Init: group, Cgroup: group}
	if blueprint.JoinPIDs {
		pids, err := os.Open(config.Namespaces.PathOf(configs.NEWPID))
		if err != nil {
			return nil, nil, err
		}
		defer pids.Close()
		files.Init = int(pids.Fd())
	}
	release, err := addStdio(&files, c.init.lp)
	if err != nil {
		return nil, nil, err
	}
	defer release()
	return c.usher.build(ctx, blueprint, files)
}

func (j *usherJail) config() *configs.Config { return j.made }

// begin lets the init go on. What it executes then is its own affair, as with libcontainer.
func (j *usherJail) begin(ctx context.Context, _ <-chan struct{}) error {
	if j.status == nil {
		return fmt.Errorf("it has been started: %w", errdefs.ErrFailedPrecondition)
	}
	status := j.status
	if err := status.SetReadDeadline(time.Time{}); err != nil { // one who had waited before
		return err
	}
	_, _ = status.Write([]byte{1}) // one that is gone does not answer
	answer, err := readStatus(ctx, status)
	if err != nil {
		return err
	}
	if len(answer) == 0 || answer[0] != reexec.UsherGoes {
		return fmt.Errorf("container process is already dead: %w", errdefs.ErrFailedPrecondition)
	}
	j.closeStatus()
	return nil
}

func (j *usherJail) closeStatus() {
	if j.status != nil {
		j.status.Close()
		j.status = nil
	}
}

func (j *usherJail) start(p *libcontainer.Process) error {
	if err := j.tell(); err != nil {
		return err
	}
	return j.lc.Start(p)
}

// tell writes down what libcontainer knows of a container that it has made, and has it
// read that.
func (j *usherJail) tell() error {
	if j.lc != nil {
		return nil
	}
	stat, err := system.Stat(j.pid)
	if err != nil {
		return fmt.Errorf("looking at the init of container %s: %w", j.id, err)
	}
	state := libcontainer.State{
		BaseState: libcontainer.BaseState{
			ID: j.id, InitProcessPid: j.pid, InitProcessStartTime: stat.StartTime, Created: j.created, Config: *j.made,
		},
		CgroupPaths:    j.manager.GetPaths(),
		NamespacePaths: map[configs.NamespaceType]string{},
	}
	for _, kind := range configs.NamespaceTypes() {
		if configs.IsNamespaceSupported(kind) {
			ns := configs.Namespace{Type: kind}
			state.NamespacePaths[kind] = ns.GetPath(j.pid)
		}
	}
	data, err := json.Marshal(state)
	if err == nil {
		err = makePrivateDir(filepath.Dir(j.dir))
	}
	if err == nil {
		err = os.MkdirAll(j.dir, 0o711)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(j.dir, "state.json"), data, 0o600)
	}
	if err == nil {
		j.lc, err = libcontainer.Load(filepath.Dir(j.dir), j.id)
	}
	if err != nil {
		return fmt.Errorf("telling libcontainer of container %s: %w", j.id, err)
	}
	return nil
}

func (j *usherJail) pause() error {
	switch now, err := j.manager.GetFreezerState(); {
	case err != nil:
		return err
	case now == cgroups.Frozen:
		return libcontainer.ErrNotRunning
	}
	return j.manager.Freeze(cgroups.Frozen)
}

func (j *usherJail) resume() error {
	switch now, err := j.manager.GetFreezerState(); {
	case err != nil:
		return err
	case now != cgroups.Frozen:
		return libcontainer.ErrNotPaused
	}
	return j.manager.Freeze(cgroups.Thawed)
}

func (j *usherJail) destroy() error {
	j.closeStatus()
	if err := j.manager.Destroy(); err != nil {
		return err
	}
	return os.RemoveAll(j.dir)
}
