package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// cpuPeriod is the unit of time in which processors are accounted, in microseconds.
const cpuPeriod = 100_000

// LimitCPUs bounds the processor time of the group, which must have been joined, to that
// of so many processors. A host without the controller bounds nothing, and a group that
// is above this one and has less is bound enough.
func (g *Group) LimitCPUs(count uint32) error {
	for _, h := range g.hierarchies {
		if err := h.limitCPUs(g.path, count); err != nil {
			return fmt.Errorf("limiting the processor time of the pod's cgroup: %w", err)
		}
	}
	return nil
}

func (h hierarchy) limitCPUs(name string, count uint32) error {
	quota := strconv.FormatUint(uint64(count)*cpuPeriod, 10)
	dir := h.dir(name)
	err := set(filepath.Join(dir, "cpu.cfs_period_us"), strconv.Itoa(cpuPeriod))
	if err == nil {
		err = set(filepath.Join(dir, "cpu.cfs_quota_us"), quota)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		if errors.Is(err, unix.EINVAL) {
			return nil // more than the groups above have
		}
		return err
	}
	err = set(filepath.Join(dir, "cpu.max"), quota+" "+strconv.Itoa(cpuPeriod))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// set writes to a file of a cgroup, which must be there.
func set(path, value string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}
