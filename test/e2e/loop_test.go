package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/hyperhq/hyper/test/harness"
)

// loop is a loop device that a test has made from a file.
type loop struct {
	path, file   string
	number       int
	major, minor int64
}

// newLoop makes a loop device that holds text and then newlines, of a size in bytes.
// It is there until the test ends, or the test removes it.
func newLoop(t *testing.T, c *harness.Cell, text string, size int) *loop {
	t.Helper()
	data := make([]byte, size)
	for i := range data {
		data[i] = '\n'
	}
	copy(data, text)
	l := &loop{file: filepath.Join(hostDir(t, c, nil), "disk")}
	if err := os.WriteFile(l.file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := l.attach(); err != nil {
		t.Skipf("this machine makes no loop devices: %v", err)
	}
	t.Cleanup(func() {
		if err := l.remove(); err != nil {
			t.Error(err)
		}
	})
	var st unix.Stat_t
	if err := unix.Stat(l.path, &st); err != nil {
		t.Fatal(err)
	}
	l.major, l.minor = int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev))
	return l
}

// attach takes a free loop device. Others may take it at the same time.
func (l *loop) attach() error {
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
		l.path = fmt.Sprintf("/dev/loop%d", l.number)
		if err = l.configure(file); !errors.Is(err, unix.EBUSY) {
			return err
		}
	}
	return err
}

func (l *loop) configure(file *os.File) error {
	device, err := os.OpenFile(l.path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer device.Close()
	config := unix.LoopConfig{Fd: uint32(file.Fd())}
	copy(config.Info.File_name[:len(config.Info.File_name)-1], l.file)
	return unix.IoctlLoopConfigure(int(device.Fd()), &config)
}

// remove lets the kernel remove the loop device, which it does when nobody has it
// open any more.
func (l *loop) remove() error {
	if !l.there() {
		return nil
	}
	device, err := os.OpenFile(l.path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer device.Close()
	if err := unix.IoctlSetInt(int(device.Fd()), unix.LOOP_CLR_FD, 0); err != nil && !errors.Is(err, unix.ENXIO) {
		return fmt.Errorf("removing %s: %w", l.path, err)
	}
	return nil
}

// there says whether the loop device still has the file.
func (l *loop) there() bool {
	file, err := os.ReadFile(fmt.Sprintf("/sys/block/loop%d/loop/backing_file", l.number))
	return err == nil && string(file) == l.file+"\n"
}

// begins reads the first bytes on the host.
func (l *loop) begins(t *testing.T, n int) string {
	t.Helper()
	f, err := os.Open(l.path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	data := make([]byte, n)
	if _, err := f.ReadAt(data, 0); err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// as gives the device to a container as `ctr run --device` and CRI do.
func (l *loop) as(path, access string) harness.Option {
	return func(s *specs.Spec) {
		mode, uid, gid := os.FileMode(0o640), uint32(1000), uint32(29)
		s.Linux.Devices = append(s.Linux.Devices, specs.LinuxDevice{
			Path: path, Type: "b", Major: l.major, Minor: l.minor, FileMode: &mode, UID: &uid, GID: &gid,
		})
		l.rule(access)(s)
	}
}

// rule allows a container to use the device.
func (l *loop) rule(access string) harness.Option {
	return func(s *specs.Spec) {
		s.Linux.Resources.Devices = append(s.Linux.Resources.Devices, specs.LinuxDeviceCgroup{
			Allow: true, Type: "b", Major: &l.major, Minor: &l.minor, Access: access,
		})
	}
}
