package main

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// busy uses a processor as long as nobody else wants it.
func busy() error {
	if err := unix.Setpriority(unix.PRIO_PROCESS, 0, 19); err != nil {
		return fmt.Errorf("giving way to others: %w", err)
	}
	//lint:ignore SA5002 that is what it is for
	for {
	}
}
