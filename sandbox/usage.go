package sandbox

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/containerd/cgroups/v3/cgroup2/stats"
	"golang.org/x/sys/unix"
)

// usage is what processes of the host use: memory in bytes, of which each page counts
// for the share that a process has of it, and times in microseconds.
type usage struct {
	anon, file, shmem, swap uint64
	user, system            uint64
	processes               uint64
}

// usageOf measures processes and all below them. Those that end meanwhile are left
// out.
func usageOf(pids []int) (usage, error) {
	var u usage
	for len(pids) > 0 {
		pid := pids[0]
		pids = pids[1:]
		err := u.add(pid)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			continue
		}
		if err != nil {
			return u, fmt.Errorf("measuring process %d: %w", pid, err)
		}
		if pid != os.Getpid() { // which has those that are measured below it, and others' too
			pids = append(pids, childrenOf(pid)...)
		}
	}
	return u, nil
}

func (u *usage) add(pid int) error {
	times, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return err
	}
	memory, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return err
	}
	user, system, err := parseTimes(times)
	if err != nil {
		return err
	}
	u.user += user
	u.system += system
	u.addMemory(string(memory))
	u.processes++
	return nil
}

// parseTimes reads fields 14 to 17 of proc(5)'s stat: the times of a process and of its
// children that have ended, in ticks, of which a second has always 100.
func parseTimes(stat []byte) (user, system uint64, err error) {
	const microsecondsPerTick = 10_000
	// The name, field 2, may hold anything; it ends at the last parenthesis.
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) < 15 {
		return 0, 0, fmt.Errorf("its stat has %d fields", len(fields))
	}
	var ticks [4]uint64
	for i := range ticks {
		if ticks[i], err = strconv.ParseUint(string(fields[11+i]), 10, 64); err != nil {
			return 0, 0, fmt.Errorf("its times: %w", err)
		}
	}
	return (ticks[0] + ticks[2]) * microsecondsPerTick, (ticks[1] + ticks[3]) * microsecondsPerTick, nil
}

// addMemory adds what a smaps_rollup tells.
func (u *usage) addMemory(rollup string) {
	for line := range strings.Lines(rollup) {
		key, value, _ := strings.Cut(line, ":")
		kib, err := strconv.ParseUint(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
		if err != nil {
			continue
		}
		switch key {
		case "Pss_Anon":
			u.anon += kib << 10
		case "Pss_File":
			u.file += kib << 10
		case "Pss_Shmem":
			u.shmem += kib << 10
		case "SwapPss":
			u.swap += kib << 10
		}
	}
}

// childrenOf are the processes that a process has started, if the kernel tells them.
func childrenOf(pid int) []int {
	lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	var pids []int
	for _, list := range lists {
		data, err := os.ReadFile(list)
		if err != nil {
			continue
		}
		for field := range strings.FieldsSeq(string(data)) {
			if child, err := strconv.Atoi(field); err == nil {
				pids = append(pids, child)
			}
		}
	}
	return pids
}

// metrics are the usage in the form of a cgroup's statistics.
func (u usage) metrics() *stats.Metrics {
	return &stats.Metrics{
		Pids: &stats.PidsStat{Current: u.processes},
		CPU:  &stats.CPUStat{UsageUsec: u.user + u.system, UserUsec: u.user, SystemUsec: u.system},
		Memory: &stats.MemoryStat{
			Usage: u.anon + u.file + u.shmem, UsageLimit: math.MaxUint64,
			Anon: u.anon, File: u.file + u.shmem, Shmem: u.shmem, // as the kernel counts shared memory
			SwapUsage: u.swap, SwapLimit: math.MaxUint64,
		},
	}
}
