// Package record is how a sandbox's processes are written down and found again by
// whoever ends them after a crash: a file with a line for each process,
// "<pid> <start time in clock ticks> <name>". The start time tells a process from
// a later one with its id; what is opened by it is held by a pidfd. Beside it stands
// how the sandbox started, for whoever looks later.
package record

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// maxRecords bounds the processes that one file may name.
const maxRecords = 1024

// Process is a process that can be told from a later one with the same id.
type Process struct {
	PID   int
	Start uint64 // clock ticks after the boot, as in /proc/<pid>/stat
	Name  string
}

func (r Process) String() string { return fmt.Sprintf("%d %d %s", r.PID, r.Start, r.Name) }

// Of looks a process up. The error is fs.ErrNotExist or ESRCH for one that is gone.
func Of(pid int, name string) (Process, error) {
	start, err := startTime(pid)
	return Process{PID: pid, Start: start, Name: name}, err
}

// Lives reports whether the process is there, and not another with its id.
func (r Process) Lives() bool {
	now, err := Of(r.PID, r.Name)
	return err == nil && now == r
}

// startTime is field 22 of /proc/<pid>/stat.
func startTime(pid int) (uint64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, fmt.Errorf("look up process %d: %w", pid, err)
	}
	// The name, field 2, may hold anything; it ends at the last parenthesis.
	fields := bytes.Fields(data[bytes.LastIndexByte(data, ')')+1:])
	if len(fields) < 20 {
		return 0, fmt.Errorf("look up process %d: its stat has %d fields", pid, len(fields))
	}
	start, err := strconv.ParseUint(string(fields[19]), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("look up process %d: %w", pid, err)
	}
	return start, nil
}

// Parse reads lines "<pid> <start time> <name>"; others are left out,
// since the file may have been cut off by what we clean up after.
func Parse(data []byte) []Process {
	var rs []Process
	sc := bufio.NewScanner(bytes.NewReader(data))
	for sc.Scan() && len(rs) < maxRecords {
		fields := strings.SplitN(strings.TrimSpace(sc.Text()), " ", 3)
		if len(fields) < 2 {
			continue
		}
		pid, err := strconv.Atoi(fields[0])
		if err != nil || pid < 2 {
			continue
		}
		start, err := strconv.ParseUint(fields[1], 10, 64)
		if err != nil {
			continue
		}
		r := Process{PID: pid, Start: start}
		if len(fields) == 3 {
			r.Name = fields[2]
		}
		rs = append(rs, r)
	}
	return rs
}

// Read reads a file of records; one that is missing has none.
func Read(path string) ([]Process, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the record of processes: %w", err)
	}
	return Parse(data), nil
}

// Write writes a file of records.
func Write(path string, ps []Process) error {
	var b bytes.Buffer
	for _, p := range ps {
		fmt.Fprintln(&b, p)
	}
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		return fmt.Errorf("write the record of processes: %w", err)
	}
	return nil
}

// Handle is a process that is still the recorded one.
type Handle struct {
	Process Process
	pidfd   *os.File
}

// Open returns a handle of r's process, nil if it is gone.
func (r Process) Open() (*Handle, error) {
	fd, err := unix.PidfdOpen(r.PID, unix.PIDFD_NONBLOCK)
	if errors.Is(err, unix.ESRCH) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open process %s: %w", r, err)
	}
	h := &Handle{Process: r, pidfd: os.NewFile(uintptr(fd), "pidfd of "+r.Name)}
	// The descriptor first: what it names can not change while we look.
	start, err := startTime(r.PID)
	if err == nil && start == r.Start && !exited(fd) {
		return h, nil
	}
	_ = h.Close()
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ESRCH) {
		return nil, err
	}
	return nil, nil
}

// exited reports whether a pidfd's process has exited: nobody may have waited for
// it yet.
func exited(fd int) bool {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, 0)
	return err == nil && n == 1
}

// Wait returns nil when the process has exited, or ctx's error.
func (h *Handle) Wait(ctx context.Context) error {
	defer context.AfterFunc(ctx, func() { _ = h.pidfd.SetReadDeadline(time.Unix(1, 0)) })()
	raw, err := h.pidfd.SyscallConn()
	if err != nil {
		return fmt.Errorf("wait for process %s: %w", h.Process, err)
	}
	err = raw.Read(func(fd uintptr) bool { return exited(int(fd)) })
	if err != nil {
		return fmt.Errorf("wait for process %s: %w", h.Process, err)
	}
	return nil
}

// Kill sends SIGKILL.
func (h *Handle) Kill() error {
	raw, err := h.pidfd.SyscallConn()
	if err != nil {
		return fmt.Errorf("kill process %s: %w", h.Process, err)
	}
	var kerr error
	err = raw.Control(func(fd uintptr) { kerr = unix.PidfdSendSignal(int(fd), unix.SIGKILL, nil, 0) })
	if err = errors.Join(err, kerr); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill process %s: %w", h.Process, err)
	}
	return nil
}

// Close releases the handle; the process goes on.
func (h *Handle) Close() error { return h.pidfd.Close() }

// OpenAll returns handles of what a file of records names and still lives.
func OpenAll(path string) ([]*Handle, error) {
	rs, err := Read(path)
	var hs []*Handle
	for _, r := range rs {
		h, oerr := r.Open()
		err = errors.Join(err, oerr)
		if h != nil {
			hs = append(hs, h)
		}
	}
	return hs, err
}

// KillAll kills processes and waits until they have exited, or ctx is done: the
// error then names those that still die. It closes the handles.
func KillAll(ctx context.Context, hs []*Handle) error {
	var err error
	for _, h := range hs {
		err = errors.Join(err, h.Kill())
	}
	for _, h := range hs {
		err = errors.Join(err, h.Wait(ctx), h.Close())
	}
	return err
}
