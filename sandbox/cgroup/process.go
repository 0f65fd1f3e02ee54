package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// look names a process, and says whether it lives.
func look(pid int) (name string, lives bool) {
	if pid == 0 {
		return "some that are not seen from here", true
	}
	name = strconv.Itoa(pid)
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return name, false
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return name, false
	}
	return name + " " + field(string(status), "Name"), !dying(string(status), string(stat))
}

// descends says whether a process is one of some, or was started by one that is, be it
// through others.
func descends(pid int, from []int) bool {
	for pid > 1 {
		if slices.Contains(from, pid) {
			return true
		}
		// Of one that is gone it is empty, and the parent 0.
		status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		pid, _ = strconv.Atoi(field(string(status), "PPid"))
	}
	return false
}

// dying tells by a process's files in /proc that it will never do anything again, though
// it may stay for as long as the host's disk takes: it has ended, does so, or is being
// killed. See proc(5).
func dying(status, stat string) bool {
	const (
		exiting = 0x4 // PF_EXITING
		kill    = 1 << (uint(unix.SIGKILL) - 1)
	)
	if state := field(status, "State"); strings.HasPrefix(state, "Z") || strings.HasPrefix(state, "X") {
		return true
	}
	for _, pending := range []string{"SigPnd", "ShdPnd"} {
		if set, err := strconv.ParseUint(field(status, pending), 16, 64); err == nil && set&kill != 0 {
			return true
		}
	}
	// The name, field 2, may hold anything; it ends at the last parenthesis. Flags are field 9.
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	if len(fields) < 7 {
		return false
	}
	flags, err := strconv.ParseUint(fields[6], 10, 64)
	return err == nil && flags&exiting != 0
}

// field is the value of a line "name:	value".
func field(text, name string) string {
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
