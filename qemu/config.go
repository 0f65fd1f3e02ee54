package qemu

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
)

// Machine types.
const (
	// MachineQ35 has PCI and hotplug.
	MachineQ35 = "q35"
	// MachineMicroVM boots faster and has neither.
	MachineMicroVM = "microvm"
)

// Ways of running the guest's code.
const (
	// AccelAuto takes KVM where it works, else TCG.
	AccelAuto = "auto"
	// AccelKVM insists on hardware virtualization.
	AccelKVM = "kvm"
	// AccelTCG is QEMU's software emulation.
	AccelTCG = "tcg"
)

// DefaultUIDBase is where the user ids of QEMU processes begin: high above those
// of people, services and the usual ranges of user namespaces.
const DefaultUIDBase = 1879048192

// Config says how machines are run. Its zero value holds the defaults.
type Config struct {
	// Path is the QEMU binary; empty means qemu-system-x86_64 on PATH.
	Path string
	// Machine is MachineQ35, which is the default, or MachineMicroVM.
	Machine string
	// Accel is AccelAuto, which is the default, AccelKVM or AccelTCG.
	Accel string
	// Firmware is a qboot image; empty means qboot.rom in QEMU's usual places.
	Firmware string
	// Files are absolute paths of what else QEMU must find when it starts, where it is
	// not installed as usual. All it finds else is /usr, and what is beside its binary.
	Files []string
	// UIDBase plus the pid of this process is the user and group id of its QEMU
	// processes: unique on the host while this process lives. 0 means
	// DefaultUIDBase.
	UIDBase uint32
	// TranslatedMiB bounds what an emulating QEMU keeps of the guest's code as it has
	// translated it, in MiB. 0 means DefaultTranslatedMiB.
	TranslatedMiB uint64
}

// DefaultTranslatedMiB is enough for what most pods run, and little enough beside the
// memory that they may have.
const DefaultTranslatedMiB = 128

const (
	binaryName   = "qemu-system-x86_64"
	firmwareName = "qboot.rom"
)

// withDefaults fills in what is empty and refuses what is unknown.
func (c Config) withDefaults() (Config, error) {
	if c.Machine == "" {
		c.Machine = MachineQ35
	}
	if c.Accel == "" {
		c.Accel = AccelAuto
	}
	if c.UIDBase == 0 {
		c.UIDBase = DefaultUIDBase
	}
	if c.TranslatedMiB == 0 {
		c.TranslatedMiB = DefaultTranslatedMiB
	}
	switch c.Machine {
	case MachineQ35, MachineMicroVM:
	default:
		return c, fmt.Errorf("QEMU machine %q is unknown: use %q or %q: %w",
			c.Machine, MachineQ35, MachineMicroVM, errdefs.ErrInvalidArgument)
	}
	switch c.Accel {
	case AccelAuto, AccelKVM, AccelTCG:
	default:
		return c, fmt.Errorf("QEMU acceleration %q is unknown: use %q, %q or %q: %w",
			c.Accel, AccelAuto, AccelKVM, AccelTCG, errdefs.ErrInvalidArgument)
	}
	return c, nil
}

// findBinary returns the QEMU binary to run.
func findBinary(path string) (string, error) {
	const hint = "install QEMU (Debian's package is qemu-system-x86) or name its binary in the configuration"
	if path == "" {
		found, err := exec.LookPath(binaryName)
		if err != nil {
			return "", fmt.Errorf("find QEMU: no %s on PATH: %s: %w", binaryName, hint, errdefs.ErrNotFound)
		}
		return filepath.Abs(found)
	}
	info, err := os.Stat(path)
	switch {
	case err != nil && os.IsNotExist(err):
		return "", fmt.Errorf("QEMU binary %s does not exist: %s: %w", path, hint, errdefs.ErrNotFound)
	case err != nil:
		return "", fmt.Errorf("QEMU binary %s: %w: %s: %w", path, err, hint, errdefs.ErrFailedPrecondition)
	case !info.Mode().IsRegular() || info.Mode().Perm()&0o001 == 0:
		// It is executed as a user who is neither its owner nor in its group.
		return "", fmt.Errorf("QEMU binary %s (mode %v) is not a program that every user may execute: %s: %w",
			path, info.Mode(), hint, errdefs.ErrFailedPrecondition)
	}
	return filepath.Abs(path)
}

// findFirmware returns the firmware image for a QEMU binary.
func findFirmware(path, binary string) (string, error) {
	if path != "" {
		if _, err := os.Stat(path); err != nil {
			return "", fmt.Errorf("QEMU firmware %s: %w: name a qboot image in the configuration, or none to search for it: %w",
				path, err, errdefs.ErrNotFound)
		}
		return path, nil
	}
	var dirs []string
	if real, err := filepath.EvalSymlinks(binary); err == nil {
		dirs = append(dirs, filepath.Join(filepath.Dir(real), "../share/qemu"))
	}
	dirs = append(dirs, "/usr/share/qemu", "/usr/local/share/qemu", "/usr/share/qemu-kvm", "/usr/share/qboot", "/usr/share/seabios")
	for _, dir := range dirs {
		candidate := filepath.Join(dir, firmwareName)
		if info, err := os.Stat(candidate); err == nil && info.Mode().IsRegular() {
			return candidate, nil
		}
	}
	return "", fmt.Errorf("find QEMU's firmware: no %s in %s: install it (Debian's package is qemu-system-data) or name it in the configuration: %w",
		firmwareName, strings.Join(dirs, ", "), errdefs.ErrNotFound)
}
