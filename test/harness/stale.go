package harness

import (
	"bufio"
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	dirPrefix = "/tmp/hyper-test-"
	// dirVariable marks, in the environment, what belongs to a directory.
	dirVariable = "HYPER_TEST_DIR"
	ownerFile   = "owner"
	// idsFile lists the ids of the containers that were made: the names of the
	// shims' sockets in /run/containerd/s follow from them.
	idsFile = "ids"
)

// makeDir makes a directory that names this process as its owner.
func makeDir() (string, error) {
	for n := 0; ; n++ {
		dir := fmt.Sprintf("%s%d-%d", dirPrefix, os.Getpid(), n)
		// Unprivileged processes (QEMU) must be able to pass.
		if err := os.Mkdir(dir, 0o711); os.IsExist(err) {
			continue
		} else if err != nil {
			return "", err
		}
		self, _ := readProcess(os.Getpid())
		owner := fmt.Sprintf("%d %d\n", self.PID, self.Start)
		if err := os.WriteFile(filepath.Join(dir, ownerFile), []byte(owner), 0o644); err != nil {
			return "", err
		}
		return dir, nil
	}
}

// WorkDir makes a directory for what a program needs beside its cells. If the
// program is killed before it removes the directory, RemoveStale does it.
func WorkDir() (dir string, remove func() error, err error) {
	if dir, err = makeDir(); err != nil {
		return "", nil, fmt.Errorf("making a directory to work in: %w", err)
	}
	return dir, func() error { return removeDir(dir) }, nil
}

// RemoveStale removes what killed runs have left behind, and says what it found.
func RemoveStale() (removed []string, err error) {
	dirs, _ := filepath.Glob(dirPrefix + "*")
	for _, dir := range dirs {
		if ownerLives(dir) {
			continue
		}
		removed = append(removed, dir)
		killBelonging(dir)
		if err := removeDir(dir); err != nil {
			return removed, fmt.Errorf("removing %s, which a killed run left: %w", dir, err)
		}
	}
	return removed, nil
}

// ownerLives is also true if that cannot be told: another run may have just
// made the directory.
func ownerLives(dir string) bool {
	data, err := os.ReadFile(filepath.Join(dir, ownerFile))
	if err != nil {
		info, err := os.Stat(dir)
		return err == nil && time.Since(info.ModTime()) < time.Minute
	}
	var pid int
	var start uint64
	if _, err := fmt.Sscan(string(data), &pid, &start); err != nil {
		return false
	}
	p, ok := readProcess(pid)
	return ok && p.Start == start && !p.Zombie()
}

// killBelonging kills the processes of a directory: those that name it in their
// arguments, environment or working directory, and all below them, which covers
// those with an empty environment (QEMU).
func killBelonging(dir string) {
	all := processes()
	var doomed []Process
	for _, p := range all {
		if p.PID != os.Getpid() && belongs(p, dir) {
			doomed = append(doomed, p)
			doomed = append(doomed, descendants(all, p.PID)...)
		}
	}
	for _, p := range doomed {
		kill(p)
	}
}

func belongs(p Process, dir string) bool { return slices.Contains(dirsOf(p), dir) }

// dirPattern finds the directories of cells in a text.
var dirPattern = regexp.MustCompile(regexp.QuoteMeta(dirPrefix) + `[0-9]+-[0-9]+`)

// dirsOf are the cells' directories that a process names.
func dirsOf(p Process) []string {
	cwd, _ := os.Readlink(fmt.Sprintf("/proc/%d/cwd", p.PID))
	environ, _ := os.ReadFile(fmt.Sprintf("/proc/%d/environ", p.PID))
	text := strings.Join(p.Args, "\x00") + "\x00" + cwd
	for kv := range strings.SplitSeq(string(environ), "\x00") {
		if strings.HasPrefix(kv, dirVariable+"=") {
			text += "\x00" + kv
		}
	}
	return dirPattern.FindAllString(text, -1)
}

// dirOf is the directory of the cell that a process belongs to, by itself or by
// the nearest above it that does; empty if none does.
func dirOf(all map[int]Process, p Process) string {
	for self := os.Getpid(); p.PID != 0 && p.PID != self; p = all[p.Parent] {
		if dirs := dirsOf(p); len(dirs) > 0 {
			return dirs[0]
		}
	}
	return ""
}

// kill kills exactly this process, not another that has got its id, and waits a
// little until it is gone.
func kill(p Process) {
	fd, err := unix.PidfdOpen(p.PID, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	if now, ok := readProcess(p.PID); !ok || now.Start != p.Start {
		return
	}
	if unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0) == nil {
		unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 2000)
	}
}

// removeDir removes a directory with what is mounted, looped or bound below it,
// its shims' sockets and its cgroups.
func removeDir(dir string) error {
	mounts := mountsBelow(dir)
	slices.Reverse(mounts)
	for _, m := range mounts {
		unix.Unmount(m, unix.MNT_DETACH)
	}
	for _, id := range idsOf(dir) {
		for _, s := range shimSockets(dir, id) {
			os.Remove(s)
		}
	}
	for _, file := range cniResults(dir) {
		os.Remove(file)
	}
	for _, cgroup := range slices.Backward(cgroupsOf(namespaceOf(dir))) {
		unix.Rmdir(cgroup)
	}
	return os.RemoveAll(dir)
}

// namespaceOf is the containerd namespace of a directory; nobody else's cgroups
// carry its name.
func namespaceOf(dir string) string { return filepath.Base(dir) }

func idsOf(dir string) []string {
	data, _ := os.ReadFile(filepath.Join(dir, idsFile))
	return strings.Fields(string(data))
}

// noteID records a container's id: see idsFile.
func noteID(dir, id string) error {
	f, err := os.OpenFile(filepath.Join(dir, idsFile), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(f, id)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}

// shimSockets are the names in the shared directory of shim sockets that a
// container of a directory's containerd may have had.
func shimSockets(dir, id string) []string {
	var names []string
	for _, suffix := range []string{"", "debug"} {
		sum := sha256.Sum256([]byte(filepath.Join(dir, "containerd.sock", namespaceOf(dir), id, suffix)))
		names = append(names, fmt.Sprintf("/run/containerd/s/%x", sum))
	}
	return names
}

// mountsBelow lists mount points at and below dir, and those of whatever lies
// there, in the order in which they were made.
func mountsBelow(dir string) []string {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil
	}
	defer f.Close()
	var found []string
	for lines := bufio.NewScanner(f); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) > 4 && (strings.Contains(lines.Text(), dir+"/") || fields[4] == dir) {
			found = append(found, unescape(fields[4]))
		}
	}
	return found
}

// unescape undoes the octal escapes of mountinfo.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if c, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(c))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// cgroupsOf lists the cgroups of both generations whose path has name in it,
// parents first.
func cgroupsOf(name string) []string {
	var found []string
	filepath.WalkDir("/sys/fs/cgroup", func(path string, entry os.DirEntry, err error) error {
		if err == nil && entry.IsDir() && strings.Contains(path, name) {
			found = append(found, path)
		}
		return nil
	})
	return found
}

// within runs check until it finds nothing more to wait for, or for as long as
// limit, and returns what it found last. It is for what ends asynchronously and
// has no event that this process could wait for.
func within(ctx context.Context, limit time.Duration, check func() []string) []string {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(Slowly(20 * time.Millisecond))
	defer tick.Stop()
	for {
		found := check()
		if len(found) == 0 {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return check()
		}
	}
}
