package main

import (
	"bufio"
	"fmt"
	"os"
)

// reserveMiB is what stays available: a benchmark that exhausts the memory measures
// the kernel's search for some.
const reserveMiB = 2048

// guard knows how much memory a container of a contestant takes, once some ran.
type guard struct{ eachMiB float64 }

// allows says whether so many containers leave the reserve available.
func (g *guard) allows(containers int) (bool, error) {
	available, err := availableMiB()
	return available-g.eachMiB*float64(containers) >= reserveMiB, err
}

// note learns from so many that run now, and what was available before. The most
// that was seen counts.
func (g *guard) note(before float64, containers int) error {
	now, err := availableMiB()
	if err != nil {
		return err
	}
	g.eachMiB = max(g.eachMiB, (before-now)/float64(containers))
	return nil
}

// availableMiB is what the kernel could give to programs without swapping.
func availableMiB() (float64, error) {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var kib float64
		if _, err := fmt.Sscanf(lines.Text(), "MemAvailable: %g kB", &kib); err == nil {
			return kib / 1024, nil
		}
	}
	return 0, fmt.Errorf("no MemAvailable in /proc/meminfo")
}
