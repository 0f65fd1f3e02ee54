package harness

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Loop is a loop device that a test has made from a file.
type Loop struct {
	// Path is the device's; Major and Minor are its numbers.
	Path         string
	Major, Minor int64

	file   string
	number int
}

// NewLoop makes a loop device that holds text and then newlines, of a size in bytes.
// It is there until the test ends, or the test removes it. A machine that makes none
// has the test skipped.
func (c *Cell) NewLoop(t interface {
	T
	Errorf(format string, args ...any)
	Skipf(format string, args ...any)
}, text string, size int) *Loop {
	t.Helper()
	data := make([]byte, size)
	for i := range data {
		data[i] = '\n'
	}
	copy(data, text)
	l := &Loop{file: filepath.Join(c.HostDir(t, nil), "disk")}
	if err := os.WriteFile(l.file, data, 0o600); err != nil {
		t.Fatalf("making a loop device: %v", err)
	}
	if err := l.attach(); err != nil {
		t.Skipf("this machine makes no loop devices: %v", err)
	}
	t.Cleanup(func() {
		if err := l.Remove(); err != nil {
			t.Errorf("%v", err)
		}
	})
	var st unix.Stat_t
	if err := unix.Stat(l.Path, &st); err != nil {
		t.Fatalf("making a loop device: %v", err)
	}
	l.Major, l.Minor = int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev))
	return l
}

// attach takes a free loop device. Others may take it at the same time.
func (l *Loop) attach() error {
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer control.Close()
	file, err := os.OpenFile(l.file, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	for range 10 {
		if l.number, err = unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE); err != nil {
			return err
		}
		l.Path = fmt.Sprintf("/dev/loop%d", l.number)
		if err = l.configure(file); !errors.Is(err, unix.EBUSY) {
			return err
		}
	}
	return err
}

func (l *Loop) configure(file *os.File) error {
	device, err := os.OpenFile(l.Path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer device.Close()
	config := unix.LoopConfig{Fd: uint32(file.Fd())}
	copy(config.Info.File_name[:len(config.Info.File_name)-1], l.file)
	return unix.IoctlLoopConfigure(int(device.Fd()), &config)
}

// Remove lets the kernel remove the loop device, which it does when nobody has it
// open any more.
func (l *Loop) Remove() error {
	if !l.There() {
		return nil
	}
	device, err := os.OpenFile(l.Path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer device.Close()
	if err := unix.IoctlSetInt(int(device.Fd()), unix.LOOP_CLR_FD, 0); err != nil && !errors.Is(err, unix.ENXIO) {
		return fmt.Errorf("removing %s: %w", l.Path, err)
	}
	return nil
}

// There says whether the loop device still has the file.
func (l *Loop) There() bool {
	file, err := os.ReadFile(fmt.Sprintf("/sys/block/loop%d/loop/backing_file", l.number))
	return err == nil && string(file) == l.file+"\n"
}

// Begins reads the first bytes on the host.
func (l *Loop) Begins(t T, n int) string {
	t.Helper()
	f, err := os.Open(l.Path)
	if err != nil {
		t.Fatalf("making a loop device: %v", err)
	}
	defer f.Close()
	data := make([]byte, n)
	if _, err := f.ReadAt(data, 0); err != nil {
		t.Fatalf("making a loop device: %v", err)
	}
	return string(data)
}

// As gives the device to a container as `ctr run --device` and CRI do.
func (l *Loop) As(path, access string) Option {
	return func(s *specs.Spec) {
		mode, uid, gid := os.FileMode(0o640), uint32(1000), uint32(29)
		s.Linux.Devices = append(s.Linux.Devices, specs.LinuxDevice{
			Path: path, Type: "b", Major: l.Major, Minor: l.Minor, FileMode: &mode, UID: &uid, GID: &gid,
		})
		l.Rule(access)(s)
	}
}

// Rule allows a container to use the device.
func (l *Loop) Rule(access string) Option {
	return func(s *specs.Spec) {
		s.Linux.Resources.Devices = append(s.Linux.Resources.Devices, specs.LinuxDeviceCgroup{
			Allow: true, Type: "b", Major: &l.Major, Minor: &l.Minor, Access: access,
		})
	}
}
