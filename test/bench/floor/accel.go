package floor

import (
	"os"
	"strings"
)

// acceleration is how QEMU runs the guest, and what the kernel is told for it. The
// floor gets what the driver has found out, or it would be none.
type acceleration struct {
	accel, cpu string
	arguments  string // the kernel's, beside those for the console
}

func newAcceleration(name string) acceleration {
	const always = "reboot=t cryptomgr.notests"
	if name == "kvm" {
		return acceleration{accel: "kvm", cpu: "host", arguments: always}
	}
	// These spare an emulated guest its trials of clocks.
	arguments := always + " no_timer_check noreplace-smp"
	if khz := tscKHz(); khz != "" {
		arguments += " tsc=reliable tsc_early_khz=" + khz
	}
	return acceleration{accel: "tcg,thread=single", cpu: "max,-erms", arguments: arguments}
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
