package agent

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

const cgroupRoot = "/sys/fs/cgroup"

// boot makes as much of the guest's userland out of the bare initial RAM file
// system as the channel needs; settle makes the rest.
func boot(log *logger, ph *phases) error {
	if err := moveRoot(); err != nil {
		return err
	}
	if err := mountFirst(log); err != nil {
		return err
	}
	ph.mark("mounts")
	return nil
}

// settle is the second half of the boot. It runs while the host is waited for,
// and containers wait for it. What the guest can do without is logged where it
// fails, and else is an error.
func settle(log *logger) error {
	if err := mountRest(log); err != nil {
		return err
	}
	if err := mountCgroups(log); err != nil {
		return err
	}
	raiseLimits(log)
	writeSettings(log)
	if err := loopbackUp(); err != nil {
		log.infof("loopback: %v", err)
	}
	return nil
}

// moveRoot makes the root a mount that pivot_root(2) can leave, as containers
// must, which the initial RAM file system itself is not. Nothing is copied: it
// is bound over itself. The mounts are shared, so that a volume mounted in one
// container with propagation is seen by the others.
func moveRoot() error {
	const dir = "/run"
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, step := range []struct {
		what string
		do   func() error
	}{
		{"binding / on " + dir, func() error { return unix.Mount("/", dir, "", unix.MS_BIND, "") }},
		{"entering the new root", func() error { return unix.Chdir(dir) }},
		{"moving the new root to /", func() error { return unix.Mount(".", "/", "", unix.MS_MOVE, "") }},
		{"changing to the new root", func() error { return unix.Chroot(".") }},
		{"leaving the old directory", func() error { return unix.Chdir("/") }},
		{"sharing the root mount", func() error { return unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, "") }},
	} {
		if err := step.do(); err != nil {
			return fmt.Errorf("%s: %w", step.what, err)
		}
	}
	return nil
}

type systemMount struct {
	fstype, target string
	flags          uintptr
	data           string
	optional       bool
}

const safe = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC

// mountFirst mounts what the channel is found by.
func mountFirst(log *logger) error {
	return mountSystemList(log, []systemMount{
		{"proc", "/proc", safe, "", false},
		{"sysfs", "/sys", safe, "", false},
		{"devtmpfs", "/dev", unix.MS_NOSUID, "mode=0755", false},
	})
}

func mountRest(log *logger) error {
	return mountSystemList(log, []systemMount{
		{"devpts", "/dev/pts", unix.MS_NOSUID | unix.MS_NOEXEC, "gid=5,mode=0620,ptmxmode=0666", false},
		{"tmpfs", "/dev/shm", safe, "mode=1777", false},
		{"mqueue", "/dev/mqueue", safe, "", true},
		{"tmpfs", "/run", unix.MS_NOSUID | unix.MS_NODEV, "mode=0755", false},
		{"tmpfs", "/tmp", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777", false},
	})
}

func mountCgroups(log *logger) error {
	err := mountSystemList(log, []systemMount{
		// A container with a cgroup namespace cannot loosen its own limits.
		{"cgroup2", cgroupRoot, safe, "nsdelegate,memory_recursiveprot", false},
	})
	if err != nil {
		return err
	}
	return enableControllers(log)
}

func mountSystemList(log *logger, list []systemMount) error {
	for _, m := range list {
		err := os.MkdirAll(m.target, 0o755)
		if err == nil {
			err = unix.Mount(m.fstype, m.target, m.fstype, m.flags, m.data)
		}
		switch {
		case err == nil:
		case m.optional:
			log.debugf("no %s on %s: %v", m.fstype, m.target, err)
		default:
			return fmt.Errorf("mounting %s on %s: %w", m.fstype, m.target, err)
		}
	}
	return nil
}

// enableControllers hands every controller the kernel has to the containers.
func enableControllers(log *logger) error {
	have, err := os.ReadFile(cgroupRoot + "/cgroup.controllers")
	if err != nil {
		return fmt.Errorf("reading the cgroup controllers: %w", err)
	}
	for name := range strings.FieldsSeq(string(have)) {
		err := os.WriteFile(cgroupRoot+"/cgroup.subtree_control", []byte("+"+name), 0)
		if err != nil {
			log.infof("cgroup controller %s: %v", name, err)
		}
	}
	return nil
}

// raiseLimits gives processes the limits that a container engine's service
// usually has. A container's own limits come on top of them.
func raiseLimits(log *logger) {
	for _, l := range []struct {
		name     string
		resource int
		value    uint64
	}{
		{"RLIMIT_NOFILE", unix.RLIMIT_NOFILE, 1 << 20},
		{"RLIMIT_NPROC", unix.RLIMIT_NPROC, unix.RLIM_INFINITY},
		{"RLIMIT_CORE", unix.RLIMIT_CORE, unix.RLIM_INFINITY},
		{"RLIMIT_MEMLOCK", unix.RLIMIT_MEMLOCK, 8 << 20},
	} {
		// Through package syscall: it restores the descriptor limit of the
		// program's start in each child, unless it is told of a new one.
		err := syscall.Setrlimit(l.resource, &syscall.Rlimit{Cur: l.value, Max: l.value})
		if err != nil {
			log.infof("raising %s: %v", l.name, err)
		}
	}
}

// writeSettings sets what programs in containers commonly need of their host,
// and what makes containers quick to make.
func writeSettings(log *logger) {
	for _, s := range [][2]string{
		{"vm/overcommit_memory", "1"},
		{"vm/max_map_count", "1048576"},
		{"kernel/pid_max", "4194304"},
		{"kernel/dmesg_restrict", "1"},
		{"kernel/kptr_restrict", "1"},
		{"fs/inotify/max_user_instances", "8192"},
		{"fs/inotify/max_user_watches", "1048576"},
		{"net/ipv4/ping_group_range", "0 2147483647"},
	} {
		writeSetting(log, "/proc/sys/"+s[0], s[1])
	}
	// Entering a cgroup, and removing it, waits for an RCU grace period: 10 ms
	// each as it comes, next to nothing when it is asked for.
	writeSetting(log, "/sys/kernel/rcu_expedited", "1")
}

func writeSetting(log *logger, path, value string) {
	err := os.WriteFile(path, []byte(value), 0)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		log.infof("setting %s to %s: %v", path, value, err)
	}
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("opening a socket: %w", err)
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr); err != nil {
		return fmt.Errorf("setting lo up: %w", err)
	}
	return nil
}
