package report

import (
	"bufio"
	"fmt"
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// Machine is the host that was measured on.
type Machine struct {
	CPUs      int     `json:"cpus"`
	CPU       string  `json:"cpu"`
	MemoryMiB uint64  `json:"memory_mib"`
	Kernel    string  `json:"kernel"`
	LoadBegin float64 `json:"load_begin"` // over a minute, as the other
	LoadEnd   float64 `json:"load_end"`
}

// ThisMachine looks at the host, with its load now as that at the begin.
func ThisMachine() (Machine, error) {
	var host unix.Utsname
	if err := unix.Uname(&host); err != nil {
		return Machine{}, fmt.Errorf("asking for the kernel's version: %w", err)
	}
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return Machine{}, fmt.Errorf("asking for the memory: %w", err)
	}
	load, err := Load()
	if err != nil {
		return Machine{}, err
	}
	return Machine{
		CPUs: runtime.NumCPU(), CPU: cpuModel(), MemoryMiB: uint64(info.Totalram) * uint64(info.Unit) >> 20,
		Kernel: unix.ByteSliceToString(host.Release[:]), LoadBegin: load,
	}, nil
}

// Load is the load average of the last minute.
func Load() (float64, error) {
	data, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return 0, err
	}
	var load float64
	if _, err := fmt.Sscan(string(data), &load); err != nil {
		return 0, fmt.Errorf("reading the load average %q: %w", data, err)
	}
	return load, nil
}

// cpuModel is the processor's name, empty if the kernel does not tell it.
func cpuModel() string {
	f, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return ""
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if name, value, ok := strings.Cut(lines.Text(), ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
