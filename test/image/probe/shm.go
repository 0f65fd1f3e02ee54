package main

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// sharedMemory writes words to the System V segment of a key, or prints what is there.
func sharedMemory(key string, words []string) error {
	const size = 4096
	k, err := strconv.Atoi(key)
	if err != nil {
		return fmt.Errorf("%q is not a key", key)
	}
	flags := 0
	if len(words) > 0 {
		flags = unix.IPC_CREAT | unix.IPC_EXCL | 0o600
	}
	id, err := unix.SysvShmGet(k, size, flags)
	if err != nil {
		return fmt.Errorf("shmget: %w", err)
	}
	memory, err := unix.SysvShmAttach(id, 0, 0)
	if err != nil {
		return fmt.Errorf("shmat: %w", err)
	}
	defer unix.SysvShmDetach(memory)
	if len(words) > 0 {
		copy(memory, strings.Join(words, " "))
		return nil
	}
	text, _, _ := bytes.Cut(memory, []byte{0})
	fmt.Println(string(text))
	return nil
}
