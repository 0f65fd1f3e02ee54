package config

import (
	"fmt"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

const (
	// MinMemoryMiB is the smallest guest that boots and has room for a process.
	MinMemoryMiB = 64
	// MaxVCPUs is what every machine type can have.
	MaxVCPUs = 255

	minUIDBase = 1 << 16
	// Each machine takes the base plus a process id, which is below 1<<22.
	maxUIDBase = 1<<32 - 2 - 1<<22

	minTranslatedMiB = 8
	maxTranslatedMiB = 2048

	// minScratchMiB holds an empty file system and then some.
	minScratchMiB = 16
	// maxDiskMiB is what is certainly too much, 16 TiB: ext4's own bound with blocks
	// of 4 KiB.
	maxDiskMiB = 16 << 20

	minBootTimeout = time.Second
	maxBootTimeout = time.Hour

	maxTemplates   = 1024
	maxTemplateMiB = 1 << 20

	maxPool        = 64
	minIdleSeconds = 1
	maxIdleSeconds = 24 * 60 * 60
)

// host is what the machine that runs the sandboxes has.
type host struct {
	memoryMiB uint64
	cpus      uint32
}

func thisHost() host {
	h := host{memoryMiB: 1 << 20, cpus: uint32(min(runtime.NumCPU(), MaxVCPUs))}
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) == nil {
		h.memoryMiB = uint64(info.Totalram) * uint64(info.Unit) >> 20
	}
	return h
}

// known is every key with what it allows, in the words of an error message.
func known() []struct{ key, allowed string } {
	return []struct{ key, allowed string }{
		{"sandbox.memory_mib", fmt.Sprintf("a whole number of MiB, from %d to sandbox.max_memory_mib or the host's memory", MinMemoryMiB)},
		{"sandbox.vcpus", fmt.Sprintf("a whole number, from 1 to sandbox.max_vcpus or the host's CPUs (at most %d)", MaxVCPUs)},
		{"sandbox.max_memory_mib", fmt.Sprintf("0 for the host's memory, or a whole number of MiB, at least %d", MinMemoryMiB)},
		{"sandbox.max_vcpus", fmt.Sprintf("0 for the host's CPUs, or a whole number from 1 to %d", MaxVCPUs)},
		{"sandbox.annotations", fmt.Sprintf("a list of %s", quoted(allAnnotations()))},
		{"sandbox.boot_timeout", fmt.Sprintf("a duration such as \"30s\", from %v to %v", minBootTimeout, maxBootTimeout)},
		{"sandbox.debug", "true or false"},
		{"guest.kernel", "an absolute path, or \"\" for the installed kernel"},
		{"guest.image", "an absolute path, or \"\" for the installed image"},
		{"guest.kernel_args", "a list of words, each without white space"},
		{"rootfs.by", quoted([]string{RootfsAuto, RootfsShare, RootfsDisk})},
		{"rootfs.layers", "an absolute path"},
		{"rootfs.layers_mib", fmt.Sprintf("a whole number of MiB, from 1 to %d", maxDiskMiB)},
		{"rootfs.scratch_mib", fmt.Sprintf("a whole number of MiB, from %d to %d", minScratchMiB, maxDiskMiB)},
		{"qemu.path", "an absolute path, or \"\" to search for it"},
		{"qemu.machine", quoted([]string{MachineQ35, MachineMicroVM})},
		{"qemu.accel", quoted([]string{AccelAuto, AccelKVM, AccelTCG})},
		{"qemu.firmware", "an absolute path, or \"\" to search for it"},
		{"qemu.files", "a list of absolute paths"},
		{"qemu.uid_base", fmt.Sprintf("a whole number from %d to %d", minUIDBase, int64(maxUIDBase))},
		{"qemu.translated_mib", fmt.Sprintf("a whole number from %d to %d", minTranslatedMiB, maxTranslatedMiB)},
		{"virtiofsd.path", "an absolute path, or \"\" to search for it"},
		{"pasta.path", "an absolute path, or \"\" to search for it"},
		{"virtiofsd.cache", quoted([]string{CacheAuto, CacheAlways, CacheNever})},
		{"template.enable", "true or false"},
		{"template.directory", "an absolute path"},
		{"template.max_count", fmt.Sprintf("a whole number from 1 to %d", maxTemplates)},
		{"template.max_mib", fmt.Sprintf("a whole number of MiB, from 1 to %d", maxTemplateMiB)},
		{"pool.enable", "true or false"},
		{"pool.max", fmt.Sprintf("a whole number from 1 to %d", maxPool)},
		{"pool.idle_seconds", fmt.Sprintf("a whole number of seconds, from %d to %d", minIdleSeconds, maxIdleSeconds)},
	}
}

func quoted(words []string) string {
	var b strings.Builder
	for i, word := range words {
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "%q", word)
	}
	return b.String()
}

func unknownKey(at position, key string) error {
	table, _, dotted := strings.Cut(key, ".")
	var inTable, tables []string
	for _, k := range known() {
		t, name, _ := strings.Cut(k.key, ".")
		if t == table {
			inTable = append(inTable, name)
		}
		if !slices.Contains(tables, "["+t+"]") {
			tables = append(tables, "["+t+"]")
		}
	}
	if dotted && inTable != nil {
		return fmt.Errorf("%s: unknown key %s: [%s] has %s: %w", at, key, table,
			strings.Join(inTable, ", "), errdefs.ErrInvalidArgument)
	}
	return fmt.Errorf("%s: unknown key %s: there are %s: %w", at, key, strings.Join(tables, ", "), errdefs.ErrInvalidArgument)
}

// badValue says what key allows; got is the value, or empty if it is not known.
func badValue(at position, key, got string) error {
	for _, k := range known() {
		if k.key == key {
			if got != "" {
				got = " " + got
			}
			return fmt.Errorf("%s: %s: bad value%s: allowed is %s: %w", at, key, got, k.allowed, errdefs.ErrInvalidArgument)
		}
	}
	return fmt.Errorf("%s: %s: bad value: %w", at, key, errdefs.ErrInvalidArgument)
}

// check is one rule about the value of one key.
type check struct {
	key   string
	value any
	ok    bool
}

// validate finds the first value that is not allowed.
func (c *Config) validate(h host, seen positions) error {
	limits := c.limits(h)
	s := c.Sandbox
	checks := []check{
		{"sandbox.max_memory_mib", s.MaxMemoryMiB, s.MaxMemoryMiB == 0 || s.MaxMemoryMiB >= MinMemoryMiB},
		{"sandbox.max_vcpus", s.MaxVCPUs, s.MaxVCPUs <= MaxVCPUs},
		{"sandbox.memory_mib", s.MemoryMiB, s.MemoryMiB >= MinMemoryMiB && s.MemoryMiB <= limits.MemoryMiB},
		{"sandbox.vcpus", s.VCPUs, s.VCPUs >= 1 && s.VCPUs <= limits.VCPUs},
		{"sandbox.boot_timeout", s.BootTimeout.Duration, s.BootTimeout.Duration >= minBootTimeout && s.BootTimeout.Duration <= maxBootTimeout},
		{"rootfs.by", c.Rootfs.By, slices.Contains([]string{RootfsAuto, RootfsShare, RootfsDisk}, c.Rootfs.By)},
		{"rootfs.layers", c.Rootfs.Layers, filepath.IsAbs(c.Rootfs.Layers)},
		{"rootfs.layers_mib", c.Rootfs.LayersMiB, c.Rootfs.LayersMiB >= 1 && c.Rootfs.LayersMiB <= maxDiskMiB},
		{"rootfs.scratch_mib", c.Rootfs.ScratchMiB, c.Rootfs.ScratchMiB >= minScratchMiB && c.Rootfs.ScratchMiB <= maxDiskMiB},
		{"qemu.machine", c.QEMU.Machine, slices.Contains([]string{MachineQ35, MachineMicroVM}, c.QEMU.Machine)},
		{"qemu.accel", c.QEMU.Accel, slices.Contains([]string{AccelAuto, AccelKVM, AccelTCG}, c.QEMU.Accel)},
		{"qemu.uid_base", c.QEMU.UIDBase, c.QEMU.UIDBase >= minUIDBase && c.QEMU.UIDBase <= maxUIDBase},
		{"qemu.translated_mib", c.QEMU.TranslatedMiB, c.QEMU.TranslatedMiB >= minTranslatedMiB && c.QEMU.TranslatedMiB <= maxTranslatedMiB},
		{"virtiofsd.cache", c.Virtiofsd.Cache, slices.Contains([]string{CacheAuto, CacheAlways, CacheNever}, c.Virtiofsd.Cache)},
		{"template.directory", c.Template.Directory, filepath.IsAbs(c.Template.Directory)},
		{"template.max_count", c.Template.MaxCount, c.Template.MaxCount >= 1 && c.Template.MaxCount <= maxTemplates},
		{"template.max_mib", c.Template.MaxMiB, c.Template.MaxMiB >= 1 && c.Template.MaxMiB <= maxTemplateMiB},
		{"pool.max", c.Pool.Max, c.Pool.Max >= 1 && c.Pool.Max <= maxPool},
		{"pool.idle_seconds", c.Pool.IdleSeconds, c.Pool.IdleSeconds >= minIdleSeconds && c.Pool.IdleSeconds <= maxIdleSeconds},
	}
	for _, name := range s.Annotations {
		checks = append(checks, check{"sandbox.annotations", name, slices.Contains(allAnnotations(), name)})
	}
	for _, arg := range c.Guest.KernelArgs {
		checks = append(checks, check{"guest.kernel_args", arg, arg != "" && !strings.ContainsAny(arg, " \t\r\n\x00")})
	}
	for _, path := range c.QEMU.Files {
		checks = append(checks, check{"qemu.files", path, filepath.IsAbs(path)})
	}
	for _, p := range []struct{ key, path string }{
		{"guest.kernel", c.Guest.Kernel}, {"guest.image", c.Guest.Image},
		{"qemu.path", c.QEMU.Path}, {"qemu.firmware", c.QEMU.Firmware}, {"virtiofsd.path", c.Virtiofsd.Path},
		{"pasta.path", c.Pasta.Path},
	} {
		checks = append(checks, check{p.key, p.path, p.path == "" || filepath.IsAbs(p.path)})
	}
	for _, k := range checks {
		if !k.ok {
			return badValue(seen[k.key], k.key, printed(k.value))
		}
	}
	return nil
}

func printed(v any) string {
	if s, ok := v.(string); ok {
		return fmt.Sprintf("%q", s)
	}
	return fmt.Sprint(v)
}
