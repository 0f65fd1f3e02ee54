package agent

import (
	"os"
	"path/filepath"
	"slices"
	"strings"

	devices "github.com/opencontainers/cgroups/devices/config"
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"golang.org/x/sys/unix"

	"github.com/hyperhq/hyper/agent/reexec"
)

const (
	// usualMountFlags are those that the usher knows what to do with, of any mount. Of a
	// bind it knows what usualBindFlags has.
	usualMountFlags = usualBindFlags&^(unix.MS_BIND|unix.MS_REC) | unix.MS_SYNCHRONOUS | unix.MS_DIRSYNC | unix.MS_LAZYTIME | unix.MS_SILENT
	usualBindFlags  = unix.MS_BIND | unix.MS_REC | unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC |
		unix.MS_NOSYMFOLLOW | unix.MS_NOATIME | unix.MS_NODIRATIME | unix.MS_RELATIME | unix.MS_STRICTATIME

	usualPropagation = unix.MS_REC | unix.MS_PRIVATE | unix.MS_SLAVE | unix.MS_SHARED

	maxMountOptions = 4000 // bytes
)

// blueprintOf translates a container and its init for the usher, as libcontainer would make
// them. It is errUnusual if there is anything to them that the usher does not know.
func blueprintOf(id string, config *configs.Config, lp *libcontainer.Process, known knownCapabilities) (*reexec.Build, error) {
	entry, err := entryOf(id, config, lp, known)
	if err != nil {
		return nil, err
	}
	b := &reexec.Build{
		Entry: *entry, Rootfs: config.Rootfs, Readonly: config.Readonlyfs, Propagation: uint32(config.RootPropagation),
		Hostname: config.Hostname, Domainname: config.Domainname,
		ReadonlyPaths: config.ReadonlyPaths, MaskedPaths: withoutRepetitions(config.MaskPaths),
		Nodes: !slices.ContainsFunc(config.Mounts, isOwnDev),
	}
	if isUnusualContainer(config, lp) {
		return nil, errUnusual
	}
	for _, add := range []func(*reexec.Build, *configs.Config) bool{addNamespaces, addMounts, addDevices, addSysctls} {
		if !add(b, config) {
			return nil, errUnusual
		}
	}
	return b, nil
}

func isUnusualContainer(config *configs.Config, lp *libcontainer.Process) bool {
	switch {
	case config.NoPivotRoot, config.ParentDeathSignal != 0, config.MountLabel != "",
		// A shared root gives the guest what is mounted in a volume: a second attempt would, too.
		config.RootPropagation&^usualPropagation != 0, config.RootPropagation&unix.MS_SHARED != 0,
		// Which of the two comes last is libcontainer's to say.
		config.Domainname != "" && config.Sysctl["kernel.domainname"] != "",
		len(config.NetDevices) > 0, len(config.Routes) > 0,
		len(config.UIDMappings) > 0, len(config.GIDMappings) > 0, len(config.TimeOffsets) > 0,
		config.HasHook(configs.Prestart, configs.CreateRuntime, configs.CreateContainer, configs.StartContainer, configs.Poststart, configs.Poststop),
		!isCleanPath(config.Rootfs) || config.Rootfs == "/", !isCleanPath(lp.Cwd),
		!areAbsolute(config.MaskPaths), !areAbsolute(config.ReadonlyPaths):
		return true
	}
	return false
}

// isCleanPath says whether a path is absolute, and what package filepath would make of it.
func isCleanPath(path string) bool { return filepath.IsAbs(path) && filepath.Clean(path) == path }

func areAbsolute(paths []string) bool {
	return !slices.ContainsFunc(paths, func(p string) bool { return !filepath.IsAbs(p) })
}

// withoutRepetitions leaves the first of several paths that are the same when cleaned.
func withoutRepetitions(paths []string) []string {
	seen := make(map[string]bool, len(paths))
	return slices.DeleteFunc(slices.Clone(paths), func(p string) bool {
		p = filepath.Clean(p)
		again := seen[p]
		seen[p] = true
		return again
	})
}

// addNamespaces adds those that are new, or shared with the guest by not being there. Only
// that of process ids can be another's.
func addNamespaces(b *reexec.Build, config *configs.Config) bool {
	b.Namespaces = config.Namespaces.CloneFlags()
	for _, ns := range config.Namespaces {
		switch ns.Type {
		case configs.NEWPID:
			b.JoinPIDs = ns.Path != ""
		case configs.NEWNS, configs.NEWIPC, configs.NEWUTS, configs.NEWNET, configs.NEWCGROUP:
			if ns.Path != "" {
				return false
			}
		default:
			return false
		}
	}
	for _, n := range config.Networks {
		if n.Type != "loopback" || !config.Namespaces.IsPrivate(configs.NEWNET) {
			return false
		}
		b.Loopback = true
	}
	return true
}

// isOwnDev says whether a mount brings its own /dev, in which nothing is made then.
func isOwnDev(m *configs.Mount) bool {
	return m.Device == "bind" && filepath.Clean(m.Destination) == "/dev"
}

func addMounts(b *reexec.Build, config *configs.Config) bool {
	for _, m := range config.Mounts {
		mount, ok := blueprintOfMount(m, config.Rootfs)
		if !ok {
			return false
		}
		b.Mounts = append(b.Mounts, mount)
	}
	return true
}

func blueprintOfMount(m *configs.Mount, rootfs string) (b reexec.BuildMount, ok bool) {
	if m.IsBind() != (m.Device == "bind") || m.IsIDMapped() || m.RecAttr != nil || m.Extensions != 0 || len(m.PropagationFlags) > 1 || len(m.Data) > maxMountOptions {
		return b, false
	}
	target := filepath.Clean(m.Destination)
	if !isUsualTarget(target, rootfs, m) || m.Flags&^usualFlags(m) != 0 {
		return b, false
	}
	b = reexec.BuildMount{Source: m.Source, Target: target, Type: m.Device, Data: m.Data, Flags: uintptr(m.Flags)}
	for _, p := range m.PropagationFlags {
		if p&^usualPropagation != 0 {
			return b, false
		}
		b.Propagation = uint32(p)
	}
	// Nodes are made in /dev before that is read-only; and tmpfs's may have others' targets.
	b.ReadonlyLater = m.Flags&unix.MS_RDONLY != 0 && (m.Device == "tmpfs" || target == "/dev")
	switch m.Device {
	case "bind":
		b.Bind, b.Type = true, ""
		b.Attributes = m.Flags&^(unix.MS_BIND|unix.MS_REC) != 0 || m.ClearedFlags != 0
		return b, true
	case "proc", "sysfs":
		b.NoLinks = true
	case "tmpfs":
		if !hasMode(m.Data) && !isThere(rootfs, target) {
			return b, false
		}
		b.TargetsMode = true
	case "cgroup":
		b.Type, b.Propagation = "cgroup2", 0
	case "devpts", "mqueue":
	default:
		return b, false
	}
	if b.ReadonlyLater {
		b.Flags &^= unix.MS_RDONLY
	}
	return b, true
}

// hasMode says whether the options of a tmpfs have its root's mode. Where they have none it is
// that of what is mounted on, or the kernel's own if that had to be made: so whoever tries
// after another has failed must not find it made.
func hasMode(options string) bool {
	return slices.ContainsFunc(strings.Split(options, ","), func(o string) bool { return strings.HasPrefix(o, "mode=") })
}

func isThere(rootfs, target string) bool {
	_, err := os.Lstat(filepath.Join(rootfs, target))
	return err == nil
}

func usualFlags(m *configs.Mount) int {
	if m.Device == "bind" {
		return usualBindFlags
	}
	return usualMountFlags
}

// isUsualTarget says whether a path may be mounted on: the root is not to be covered, nor
// anything of /proc but all of it by what it should be.
func isUsualTarget(target, rootfs string, m *configs.Mount) bool {
	switch {
	case !filepath.IsAbs(target), target == "/",
		target == rootfs, strings.HasPrefix(target, rootfs+"/"), // libcontainer takes those for paths below it
		strings.HasPrefix(target, "/proc/"):
		return false
	case target == "/proc":
		return m.Device == "proc"
	}
	return true
}

func addDevices(b *reexec.Build, config *configs.Config) bool {
	if !b.Nodes {
		return true
	}
	for _, d := range config.Devices {
		// Rules without a node, and what is a link to a terminal's file system.
		if d.Path == "" || d.Path == "/dev/ptmx" {
			continue
		}
		device, ok := blueprintOfDevice(d)
		if !ok {
			return false
		}
		b.Devices = append(b.Devices, device)
	}
	return true
}

func blueprintOfDevice(d *devices.Device) (b reexec.BuildDevice, ok bool) {
	kinds := map[devices.Type]uint32{devices.BlockDevice: unix.S_IFBLK, devices.CharDevice: unix.S_IFCHR, devices.FifoDevice: unix.S_IFIFO}
	kind, ok := kinds[d.Type]
	number, err := d.Mkdev()
	if !ok || err != nil || !isCleanPath(d.Path) || d.Path == "/" || d.FileMode&^0o777 != 0 {
		return b, false
	}
	return reexec.BuildDevice{Path: d.Path, Number: number, Mode: kind | uint32(d.FileMode), UID: d.Uid, GID: d.Gid}, true
}

func addSysctls(b *reexec.Build, config *configs.Config) bool {
	for name, value := range config.Sysctl {
		path := strings.ReplaceAll(name, ".", "/")
		for element := range strings.SplitSeq(path, "/") {
			if !isSysctlElement(element) {
				return false
			}
		}
		b.Sysctls = append(b.Sysctls, reexec.BuildSysctl{Name: path, Value: value})
	}
	return true
}
