//go:build linux

package main

import (
	"os"
	"path/filepath"
	"strings"
)

// waitDisk waits until there is a disk of a serial number, or none any more, and
// returns its name, its size in sectors and whether it is read-only.
func waitDisk(serial string, there bool) (answer string, err error) {
	err = await(func() (bool, error) {
		paths, err := filepath.Glob("/sys/block/*/serial")
		if err != nil {
			return false, err
		}
		for _, path := range paths {
			if got, err := os.ReadFile(path); err != nil || strings.TrimSpace(string(got)) != serial {
				continue
			}
			dir := filepath.Dir(path)
			words := []string{filepath.Base(dir)}
			for _, name := range []string{"size", "ro"} {
				word, err := os.ReadFile(filepath.Join(dir, name))
				if err != nil {
					return false, nil // it is going
				}
				words = append(words, strings.TrimSpace(string(word)))
			}
			answer = strings.Join(words, " ")
			return there, nil
		}
		return !there, nil
	})
	return answer, err
}
