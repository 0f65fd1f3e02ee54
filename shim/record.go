package shim

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// maxRecords bounds the processes that one file may name.
const maxRecords = 1024

// record is a process that can be told from a later one with the same id.
type record struct {
	PID   int
	Start uint64 // clock ticks after the boot, as in /proc/<pid>/stat
	Name  string
}

func (r record) String() string { return fmt.Sprintf("%d %d %s", r.PID, r.Start, r.Name) }

// recordOf looks a process up.
func recordOf(pid int, name string) (record, error) {
	start, err := startTime(pid)
	return record{PID: pid, Start: start, Name: name}, err
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

// parseRecords reads lines "<pid> <start time> <name>"; others are left out,
// since the file may have been cut off by what we clean up after.
func parseRecords(data []byte) []record {
	var rs []record
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
		r := record{PID: pid, Start: start}
		if len(fields) == 3 {
			r.Name = fields[2]
		}
		rs = append(rs, r)
	}
	return rs
}

// readRecords reads a file of records; one that is missing has none.
func readRecords(path string) ([]record, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the record of processes: %w", err)
	}
	return parseRecords(data), nil
}

// handle is a process that is still the recorded one.
type handle struct {
	record record
	pidfd  *os.File
}

// open returns a handle of r's process, nil if it is gone.
func (r record) open() (*handle, error) {
	fd, err := unix.PidfdOpen(r.PID, unix.PIDFD_NONBLOCK)
	if errors.Is(err, unix.ESRCH) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open process %s: %w", r, err)
	}
	h := &handle{record: r, pidfd: os.NewFile(uintptr(fd), "pidfd of "+r.Name)}
	// The descriptor first: what it names can not change while we look.
	start, err := startTime(r.PID)
	if err == nil && start == r.Start && !exited(fd) {
		return h, nil
	}
	_ = h.close()
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

// wait returns nil when the process has exited, or ctx's error.
func (h *handle) wait(ctx context.Context) error {
	defer context.AfterFunc(ctx, func() { _ = h.pidfd.SetReadDeadline(time.Unix(1, 0)) })()
	raw, err := h.pidfd.SyscallConn()
	if err != nil {
		return fmt.Errorf("wait for process %s: %w", h.record, err)
	}
	err = raw.Read(func(fd uintptr) bool { return exited(int(fd)) })
	if err != nil {
		return fmt.Errorf("wait for process %s: %w", h.record, err)
	}
	return nil
}

// kill sends SIGKILL.
func (h *handle) kill() error {
	raw, err := h.pidfd.SyscallConn()
	if err != nil {
		return fmt.Errorf("kill process %s: %w", h.record, err)
	}
	var kerr error
	err = raw.Control(func(fd uintptr) { kerr = unix.PidfdSendSignal(int(fd), unix.SIGKILL, nil, 0) })
	if err = errors.Join(err, kerr); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill process %s: %w", h.record, err)
	}
	return nil
}

func (h *handle) close() error { return h.pidfd.Close() }

// openRecorded returns handles of what a file of records names and still lives.
func openRecorded(path string) ([]*handle, error) {
	rs, err := readRecords(path)
	var hs []*handle
	for _, r := range rs {
		h, oerr := r.open()
		err = errors.Join(err, oerr)
		if h != nil {
			hs = append(hs, h)
		}
	}
	return hs, err
}

// killAll kills processes and waits until they have exited, or ctx is done: the
// error then names those that still die. It closes the handles.
func killAll(ctx context.Context, hs []*handle) error {
	var err error
	for _, h := range hs {
		err = errors.Join(err, h.kill())
	}
	for _, h := range hs {
		err = errors.Join(err, h.wait(ctx), h.close())
	}
	return err
}

// writeFile writes a file that is either whole or not there.
func writeFile(path, text string) error {
	tmp := filepath.Join(filepath.Dir(path), "."+filepath.Base(path))
	if err := os.WriteFile(tmp, []byte(text), 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}
