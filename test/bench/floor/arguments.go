package floor

import (
	"os"
	"strings"
)

const machine = "q35"

// Bare is QEMU as whoever knows nothing of it would start it, but for devices that
// nobody looks at. accel is "kvm" or "tcg".
func Bare(accel string) Arguments {
	cpu := "max"
	if accel == "kvm" {
		cpu = "host"
	}
	return Arguments{accel: accel, cpu: cpu, machine: machine}
}

// Least is what the driver has found out beside that: another firmware, a machine
// without what no guest of ours looks at, a kernel that is spared its trials of clocks,
// and the processor that is emulated fastest. accel is "kvm" or "tcg".
func Least(accel string) Arguments {
	a := Bare(accel)
	a.machine += ",usb=off,vmport=off,smbus=off,sata=off,hpet=off,graphics=off,i8042=off"
	a.firmware = "qboot.rom"
	a.kernel = " reboot=t cryptomgr.notests"
	if accel == "kvm" {
		return a
	}
	a.accel, a.cpu = "tcg,thread=single", "max,-erms"
	a.kernel += " no_timer_check noreplace-smp"
	if khz := tscKHz(); khz != "" {
		a.kernel += " tsc=reliable tsc_early_khz=" + khz
	}
	return a
}

// tscKHz is the processor's frequency as the host's kernel gives it.
func tscKHz() string {
	data, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(data)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "cpu MHz" {
			mhz, khz, _ := strings.Cut(strings.TrimSpace(value), ".")
			return mhz + (khz + "000")[:3]
		}
	}
	return ""
}
