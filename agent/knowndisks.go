package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

// knownDisks are disks that a guest has found before it was saved, by their serial
// numbers: for a clone it is work to look for them, and the device must be asked for
// its number. The zero value has none.
type knownDisks struct {
	mu       sync.Mutex
	bySerial map[string]blockDevice
}

// learn looks for the disks that there are in a directory of block devices.
func (k *knownDisks) learn(class string) error {
	files, err := filepath.Glob(class + "/*/serial")
	if err != nil {
		return fmt.Errorf("learning the disks: %w", err)
	}
	found := map[string]blockDevice{}
	for _, file := range files {
		serial, err := os.ReadFile(file)
		if err != nil {
			return fmt.Errorf("learning the disks: %w", err)
		}
		device, err := readBlockDevice(filepath.Dir(file))
		if err != nil {
			return fmt.Errorf("learning the disks: %w", err)
		}
		found[strings.TrimSpace(string(serial))] = device
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.bySerial = found
	return nil
}

// take gives a disk that is known, once: who asks for it again may mean another, that
// has been plugged in since.
func (k *knownDisks) take(serial string) (blockDevice, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	device, known := k.bySerial[serial]
	delete(k.bySerial, serial)
	return device, known
}
