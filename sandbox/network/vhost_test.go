package network

import (
	"os"
	"path/filepath"
	"testing"
)

func TestOpenEach(t *testing.T) {
	if files, err := openEach(filepath.Join(t.TempDir(), "vhost-net"), 2); files != nil || err != nil {
		t.Errorf("a host without the device: %v, %v", files, err)
	}
	files, err := openEach(os.DevNull, 2)
	if err != nil || len(files) != 2 {
		t.Errorf("a host with the device: %d files, %v", len(files), err)
	}
	if err := closeAll(files); err != nil {
		t.Error(err)
	}
	if files, err := openEach(t.TempDir(), 1); files != nil || err == nil {
		t.Errorf("a device that cannot be opened for writing: %v, %v", files, err)
	}
}

func TestOpenVHost(t *testing.T) {
	if _, err := os.Stat("/dev/vhost-net"); err != nil {
		t.Skipf("the host has no vhost-net: %v", err)
	}
	files, err := OpenVHost(2)
	if err != nil || len(files) != 2 {
		t.Errorf("OpenVHost(2) = %d files, %v", len(files), err)
	}
	if err := closeAll(files); err != nil {
		t.Error(err)
	}
}
