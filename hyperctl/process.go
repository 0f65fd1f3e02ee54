package hyperctl

import (
	"github.com/prometheus/procfs"

	"github.com/hyperhq/hyper/sandbox/record"
)

// process is what a process on the host uses.
type process struct {
	Name string `json:"name"`
	PID  int    `json:"pid"`
	// PSS is its memory in bytes: what it shares is split among those who share it.
	// QEMU's has the guest's memory in it.
	PSS uint64 `json:"pss_bytes"`
	// CPU is the processor time that it has used, in seconds.
	CPU float64 `json:"cpu_seconds"`
}

// measure looks at those of the recorded processes that are still there.
func measure(recorded []record.Process) []process {
	var list []process
	for _, r := range recorded {
		if !r.Lives() {
			continue
		}
		if p, err := usage(r); err == nil { // or it ended while we looked
			list = append(list, p)
		}
	}
	return list
}

func usage(r record.Process) (process, error) {
	proc, err := procfs.NewProc(r.PID)
	if err != nil {
		return process{}, err
	}
	stat, err := proc.Stat()
	if err != nil {
		return process{}, err
	}
	memory, err := proc.ProcSMapsRollup()
	if err != nil {
		return process{}, err
	}
	return process{Name: r.Name, PID: r.PID, PSS: memory.Pss, CPU: stat.CPUTime()}, nil
}
