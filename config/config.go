package config

import (
	"fmt"
	"time"
)

// DefaultPath is where the configuration is looked for when $HYPER_CONFIG is
// not set.
const DefaultPath = "/etc/hyper/config.toml"

// Config is everything that an operator can choose.
type Config struct {
	Sandbox   Sandbox   `toml:"sandbox"`
	Guest     Guest     `toml:"guest"`
	Rootfs    Rootfs    `toml:"rootfs"`
	QEMU      QEMU      `toml:"qemu"`
	Virtiofsd Virtiofsd `toml:"virtiofsd"`
	Pasta     Pasta     `toml:"pasta"`
	Template  Template  `toml:"template"`
	Pool      Pool      `toml:"pool"`
}

// Sandbox is what is chosen for each sandbox (pod).
type Sandbox struct {
	// MemoryMiB is the guest's memory in MiB, at least MinMemoryMiB.
	MemoryMiB uint64 `toml:"memory_mib"`
	// VCPUs is the number of virtual CPUs, at least 1.
	VCPUs uint32 `toml:"vcpus"`
	// MaxMemoryMiB bounds what annotations and container limits may ask for,
	// in MiB; 0 is the host's memory.
	MaxMemoryMiB uint64 `toml:"max_memory_mib"`
	// MaxVCPUs bounds what annotations and container limits may ask for; 0 is
	// the host's number of CPUs.
	MaxVCPUs uint32 `toml:"max_vcpus"`
	// Annotations lists what annotations may set: see AnnotationPrefix.
	Annotations []string `toml:"annotations"`
	// BootTimeout bounds the time from the start of a VM to its agent's first
	// answer.
	BootTimeout Duration `toml:"boot_timeout"`
	// Debug makes shim and agent log more.
	Debug bool `toml:"debug"`
}

// Guest is what the virtual machine boots.
type Guest struct {
	// Kernel is the path of an uncompressed kernel (vmlinux), or empty: see
	// GuestFiles.
	Kernel string `toml:"kernel"`
	// Image is the path of the guest's initramfs, or empty: see GuestFiles.
	Image string `toml:"image"`
	// KernelArgs are appended to the kernel's command line.
	KernelArgs []string `toml:"kernel_args"`
}

// Rootfs is how containers get their root filesystems.
type Rootfs struct {
	// By is RootfsAuto, RootfsShare or RootfsDisk.
	By string `toml:"by"`
	// Layers is the directory of disk images of layers.
	Layers string `toml:"layers"`
	// LayersMiB bounds what these take together, in MiB.
	LayersMiB uint64 `toml:"layers_mib"`
	// ScratchMiB bounds what one container on disks can write to its root
	// filesystem, in MiB.
	ScratchMiB uint64 `toml:"scratch_mib"`
}

// QEMU is the hypervisor.
type QEMU struct {
	// Path is the QEMU binary, or empty to search for it.
	Path string `toml:"path"`
	// Machine is MachineQ35 or MachineMicroVM.
	Machine string `toml:"machine"`
	// Accel is AccelAuto, AccelKVM or AccelTCG.
	Accel string `toml:"accel"`
	// Firmware is the path of qboot.rom, or empty to search for it.
	Firmware string `toml:"firmware"`
	// Files are absolute paths of what QEMU must find when it starts, beside what is
	// below /usr and beside its binary: it sees no other file of the host.
	Files []string `toml:"files"`
	// UIDBase is the first of the user ids as which virtual machines run.
	UIDBase uint32 `toml:"uid_base"`
	// TranslatedMiB bounds what an emulating QEMU keeps of a guest's code as it has
	// translated it, in MiB.
	TranslatedMiB uint64 `toml:"translated_mib"`
}

// Virtiofsd is the daemon that shares the root filesystem with the guest.
type Virtiofsd struct {
	// Path is the virtiofsd binary, or empty to search for it.
	Path string `toml:"path"`
	// Cache is CacheAuto, CacheAlways or CacheNever.
	Cache string `toml:"cache"`
}

// Pasta is the program that gives pods on the host's network a way out.
type Pasta struct {
	// Path is the pasta binary, or empty to search for it.
	Path string `toml:"path"`
}

// Template is what is saved of booted machines, for others to start from.
type Template struct {
	// Enable makes and uses templates.
	Enable bool `toml:"enable"`
	// Directory is the path of the directory that holds them.
	Directory string `toml:"directory"`
	// MaxCount is how many there are at most, at least 1.
	MaxCount int `toml:"max_count"`
	// MaxMiB is how large they are together at most, in MiB, at least 1.
	MaxMiB int64 `toml:"max_mib"`
}

// Pool is the machines that are made before they are wanted.
type Pool struct {
	// Enable makes and uses them, where templates are.
	Enable bool `toml:"enable"`
	// Max is how many of a kind wait at most, at least 1.
	Max int `toml:"max"`
	// IdleSeconds is how long one waits before it ends, and how long starts are
	// remembered, in seconds.
	IdleSeconds int `toml:"idle_seconds"`
}

// Allowed values of Rootfs.By, QEMU.Machine, QEMU.Accel and Virtiofsd.Cache.
const (
	// RootfsAuto is disks where an image of the layers is there, and else the share,
	// while the image is built for the next container. Containers of pods have the
	// share.
	RootfsAuto = "auto"
	// RootfsShare is always the share.
	RootfsShare = "share"
	// RootfsDisk is disks for containers of pods too, and the container waits until the
	// image is built.
	RootfsDisk = "disk"

	MachineQ35     = "q35"
	MachineMicroVM = "microvm"

	AccelAuto = "auto"
	AccelKVM  = "kvm"
	AccelTCG  = "tcg"

	CacheAuto   = "auto"
	CacheAlways = "always"
	CacheNever  = "never"
)

// Duration is a time.Duration that is written as in "30s".
type Duration struct{ time.Duration }

// UnmarshalText reads what time.ParseDuration does.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil {
		return notDuration(text)
	}
	d.Duration = v
	return nil
}

// notDuration is a text that is no duration. The decoder gives no position with
// it where the value is not a string.
type notDuration string

func (n notDuration) Error() string { return fmt.Sprintf("%q is not a duration", string(n)) }

// MarshalText writes the form that UnmarshalText reads.
func (d Duration) MarshalText() ([]byte, error) {
	return []byte(d.String()), nil
}

// Default is the configuration of a host that has no file.
func Default() *Config {
	return &Config{
		Sandbox: Sandbox{
			MemoryMiB:   256,
			VCPUs:       1,
			Annotations: []string{annotationMemory, annotationVCPUs},
			BootTimeout: Duration{time.Minute},
		},
		Guest: Guest{KernelArgs: []string{}},
		Rootfs: Rootfs{
			By:         RootfsAuto,
			Layers:     "/var/lib/hyper/layers",
			LayersMiB:  10 << 10,
			ScratchMiB: 10 << 10,
		},
		QEMU: QEMU{
			Files:   []string{},
			Machine: MachineQ35,
			Accel:   AccelAuto,
			UIDBase: 0x70000000,

			TranslatedMiB: 128,
		},
		Virtiofsd: Virtiofsd{Cache: CacheAuto},
		Template: Template{
			Enable:    true,
			Directory: "/var/lib/hyper/templates",
			MaxCount:  8,
			MaxMiB:    1024,
		},
		Pool: Pool{Enable: true, Max: 2, IdleSeconds: 60},
	}
}
