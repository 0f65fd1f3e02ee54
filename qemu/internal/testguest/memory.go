//go:build linux

package main

import (
	"bytes"
	"encoding/binary"
	"os"
	"strconv"
)

// fill writes a file of so many MiB, each of which begins with its number.
func fill(path, mib string) error {
	n, err := strconv.ParseUint(mib, 10, 32)
	if err != nil {
		return err
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	block := bytes.Repeat([]byte("hyper..."), 1<<17)
	for i := range n {
		binary.LittleEndian.PutUint64(block, i)
		if _, err := f.Write(block); err != nil {
			return err
		}
	}
	return f.Close()
}
