package hyperctl

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/hyperhq/hyper/sandbox/record"
)

// The states of a sandbox.
const (
	// starting: its guest has not answered yet, or it has no machine yet.
	starting = "starting"
	running  = "running"
	// parked: it waits in the pool for a pod.
	parked = "parked"
	// dead: its shim is gone, and containerd has not cleaned up yet.
	dead = "dead"
)

// sandbox is one sandbox of the host.
type sandbox struct {
	State     string             `json:"state"`
	Namespace string             `json:"namespace,omitempty"` // this and what follows: once it runs
	Name      string             `json:"sandbox,omitempty"`
	From      string             `json:"from,omitempty"`
	Ready     *time.Time         `json:"ready,omitempty"`
	Phases    map[string]float64 `json:"phases_ms,omitempty"`
	Directory string             `json:"directory"`
	Processes []process          `json:"processes"`
}

// find returns the sandboxes that have their run directory in root, and those that wait
// in its pool, ordered by name. One whose record cannot be read is left out, and told of
// by the error.
func find(root string) ([]sandbox, error) {
	entries, err := os.ReadDir(root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look for sandboxes: %w", err)
	}
	all, err := findParked(filepath.Join(root, record.PoolDir))
	failed := []error{err}
	for _, e := range entries {
		if !e.IsDir() || e.Name() == record.PoolDir {
			continue
		}
		s, err := look(filepath.Join(root, e.Name()))
		switch {
		case err != nil:
			failed = append(failed, err)
		case s != nil:
			all = append(all, *s)
		}
	}
	slices.SortFunc(all, func(a, b sandbox) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Directory, b.Directory))
	})
	return all, errors.Join(failed...)
}

// look reads the run directory of one, nil if it is none, or gone by now.
func look(dir string) (*sandbox, error) {
	shim, err := record.Read(filepath.Join(dir, record.ShimFile))
	if err != nil || len(shim) == 0 {
		return nil, err
	}
	below := filepath.Join(dir, record.SandboxDir)
	others, err := record.Read(filepath.Join(below, record.PidsFile))
	if err != nil {
		return nil, err
	}
	start, err := record.ReadStart(filepath.Join(below, record.StartFile))
	if err != nil {
		return nil, err
	}
	s := &sandbox{State: starting, Directory: dir, Processes: measure(append(shim[:1], others...))}
	if start != nil {
		s.State, s.Namespace, s.Name = running, start.Namespace, start.Sandbox
		s.From, s.Ready, s.Phases = start.From, &start.Ready, start.Phases
	}
	if len(s.Processes) == 0 || s.Processes[0].PID != shim[0].PID {
		s.State = dead
	}
	return s, nil
}

// findParked returns those that wait in a pool.
func findParked(dir string) ([]sandbox, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*", "[0-9]*"))
	if err != nil {
		return nil, fmt.Errorf("look through the pool: %w", err)
	}
	var all []sandbox
	var failed []error
	for _, file := range files {
		if info, err := os.Stat(file); err != nil || !info.Mode().IsRegular() {
			continue // a directory or a socket of one, or it is gone
		}
		recorded, err := record.Read(file)
		if processes := measure(recorded); len(processes) > 0 {
			all = append(all, sandbox{State: parked, Directory: filepath.Dir(file), Processes: processes})
		}
		failed = append(failed, err)
	}
	return all, errors.Join(failed...)
}
