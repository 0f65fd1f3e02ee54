package cgroup

import (
	"fmt"
)

// Place is where a process is, in each hierarchy that this host has.
type Place struct{ hierarchies []hierarchy }

// Here is where the calling process is now.
func Here() (*Place, error) {
	hs, err := findHierarchies("/proc/self")
	if err != nil {
		return nil, err
	}
	return &Place{hierarchies: hs}, nil
}

// Enter moves a process there.
func (p *Place) Enter(pid int) error {
	for _, h := range p.hierarchies {
		if err := enter(h.dir(h.home), pid); err != nil {
			return fmt.Errorf("moving process %d out of the pod's cgroup: %w", pid, err)
		}
	}
	return nil
}
