package record

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"
)

// PoolDir is the directory, beside those of shims, of the shims that wait for a pod. In it
// a directory for each kind has a file of processes for each of them, named by a number.
const PoolDir = "pool"

// The names of what is written down, in the run directory of a shim.
const (
	// ShimFile holds the shim's process.
	ShimFile = "shim.pid"
	// SandboxDir is the directory of its sandbox; PidsFile, therein, holds that one's
	// other processes, and StartFile how it started.
	SandboxDir = "sandbox"
	PidsFile   = "pids"
	StartFile  = "start.json"
)

// maxStart bounds the record of a start, in bytes.
const maxStart = 64 << 10

// Start is how a sandbox's machine came to answer.
type Start struct {
	// Namespace and Sandbox are containerd's names.
	Namespace string `json:"namespace"`
	Sandbox   string `json:"sandbox"`
	// From is what the machine was made from: Boot, Template or Pool.
	From string `json:"from"`
	// Ready is when it answered.
	Ready time.Time `json:"ready"`
	// Phases are the steps on the way, in milliseconds, by the names that the log
	// has without "_ms": see docs/operations.md.
	Phases map[string]float64 `json:"phases_ms"`
}

// What a machine can be made from.
const (
	Boot     = "boot"
	Template = "template"
	Pool     = "pool"
)

// Write writes the record to a file, which is whole or not there.
func (s *Start) Write(path string) error {
	data, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("write the record of the start: %w", err)
	}
	tmp := path + ".new"
	if err := os.WriteFile(tmp, append(data, '\n'), 0o600); err != nil {
		return fmt.Errorf("write the record of the start: %w", err)
	}
	return os.Rename(tmp, path)
}

// ReadStart reads a record; a file that is missing has none, which is nil.
func ReadStart(path string) (*Start, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the record of the start: %w", err)
	}
	defer f.Close()
	s := &Start{}
	if err := json.NewDecoder(io.LimitReader(f, maxStart)).Decode(s); err != nil {
		return nil, fmt.Errorf("read the record of the start %s: %w", path, err)
	}
	return s, nil
}
