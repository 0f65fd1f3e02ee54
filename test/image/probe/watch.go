package main

import (
	"encoding/binary"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// watch prints what inotify tells of a directory.
func watch(dir string) error {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC)
	if err != nil {
		return fmt.Errorf("inotify: %w", err)
	}
	kinds := map[uint32]string{
		unix.IN_CREATE: "created", unix.IN_MOVED_TO: "moved", unix.IN_DELETE: "deleted",
	}
	if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_CREATE|unix.IN_MOVED_TO|unix.IN_DELETE); err != nil {
		return fmt.Errorf("watching %s: %w", dir, err)
	}
	fmt.Println("watching")
	events, buf := os.NewFile(uintptr(fd), "inotify"), make([]byte, 64<<10)
	for {
		n, err := events.Read(buf)
		if err != nil {
			return fmt.Errorf("reading inotify: %w", err)
		}
		for rest := buf[:n]; len(rest) >= unix.SizeofInotifyEvent; {
			mask := binary.NativeEndian.Uint32(rest[4:])
			end := unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(rest[12:]))
			name := strings.TrimRight(string(rest[unix.SizeofInotifyEvent:end]), "\x00")
			fmt.Println(kinds[mask&^unix.IN_ISDIR], name)
			rest = rest[end:]
		}
	}
}
