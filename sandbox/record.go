package sandbox

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/hyperhq/hyper/sandbox/factory"
)

// writeRecord writes which processes the sandbox has, for whoever cleans up
// after it: one line each, "<pid> <start time in clock ticks> <name>".
func writeRecord(path string, processes []factory.Process) error {
	var b bytes.Buffer
	for _, p := range processes {
		start, err := startTime(p.PID)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			// Already gone: nobody has to end it, and who waits for it says why.
			continue
		}
		if err != nil {
			return fmt.Errorf("recording %s (pid %d): %w", p.Name, p.PID, err)
		}
		fmt.Fprintf(&b, "%d %d %s\n", p.PID, start, p.Name)
	}
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		return fmt.Errorf("recording the sandbox's processes: %w", err)
	}
	return nil
}

// startTime is field 22 of /proc/<pid>/stat, see proc(5).
func startTime(pid int) (uint64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// The name in field 2 may hold spaces and parentheses.
	_, rest, ok := bytes.Cut(data, []byte(") "))
	for ok && bytes.Contains(rest, []byte(") ")) {
		_, rest, _ = bytes.Cut(rest, []byte(") "))
	}
	fields := bytes.Fields(rest)
	if len(fields) < 20 {
		return 0, fmt.Errorf("/proc/%d/stat is not as proc(5) says", pid)
	}
	return strconv.ParseUint(string(fields[19]), 10, 64)
}
