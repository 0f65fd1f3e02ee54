package sandbox

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/hyperhq/hyper/virtcontainers"
)

// fakeMachine notes what is plugged into it.
type fakeMachine struct {
	mu      sync.Mutex
	calls   []string
	refuse  error
	holdsOn error
	// detaching, if there is one, has a value for each DetachDisk that has begun,
	// and letGo one for each that may end.
	detaching, letGo chan struct{}
}

func (m *fakeMachine) note(call string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.calls = append(m.calls, call)
}

func (m *fakeMachine) AttachDisk(_ context.Context, d virtcontainers.Disk) error {
	m.note("attach " + d.ID)
	return m.refuse
}

func (m *fakeMachine) DetachDisk(_ context.Context, id string) error {
	if m.detaching != nil {
		m.detaching <- struct{}{}
		<-m.letGo
	}
	m.note("detach " + id)
	return m.holdsOn
}

func (m *fakeMachine) check(t *testing.T, want ...string) {
	t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	if !slices.Equal(m.calls, want) {
		t.Errorf("the machine was asked %q, want %q", m.calls, want)
	}
}

// hostDevice is some block device that the machine of the test can open.
func hostDevice(t *testing.T) virtcontainers.PlannedDisk {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root to open a block device")
	}
	for path, d := range inspectSources([]string{"/dev/loop0", "/dev/sda", "/dev/vda", "/dev/nvme0n1"}).blockDevices {
		if f, err := openBlockDevice(d.DeviceNumber, path, true); err == nil {
			f.Close()
			return virtcontainers.PlannedDisk{BlockDevice: d, Path: path, Access: "r"}
		}
	}
	t.Skip("this host has no block device that can be opened")
	return virtcontainers.PlannedDisk{}
}

func use(t *testing.T, ds *disks, m *fakeMachine, want virtcontainers.PlannedDisk) *disk {
	t.Helper()
	d, err := ds.use(t.Context(), m, want)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestDisksAreShared(t *testing.T) {
	var ds disks
	m, device := &fakeMachine{}, hostDevice(t)
	one, two := use(t, &ds, m, device), use(t, &ds, m, device)
	if one != two {
		t.Errorf("one device is disks %s and %s", one.id, two.id)
	}
	device.Access = "rw"
	if _, err := ds.use(t.Context(), m, device); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("writing what is read-only: %v", err)
	}
	for _, d := range []*disk{one, two} {
		if err := ds.leave(t.Context(), m, d); err != nil {
			t.Error(err)
		}
	}
	device.Access = "r"
	use(t, &ds, m, device)
	m.check(t, "attach disk1", "detach disk1", "attach disk2")
}

func TestDisksAfterFailures(t *testing.T) {
	var ds disks
	m, device := &fakeMachine{refuse: errdefs.ErrResourceExhausted}, hostDevice(t)
	if _, err := ds.use(t.Context(), m, device); !errdefs.IsResourceExhausted(err) {
		t.Errorf("attaching: %v", err)
	}
	m.refuse, m.holdsOn = nil, errors.New("the guest holds on")
	if err := ds.leave(t.Context(), m, use(t, &ds, m, device)); !errors.Is(err, m.holdsOn) {
		t.Errorf("detaching: %v", err)
	}
	m.holdsOn = errdefs.ErrUnavailable
	if err := ds.leave(t.Context(), m, use(t, &ds, m, device)); err != nil {
		t.Errorf("detaching from a machine that has ended: %v", err)
	}
	m.check(t, "attach disk1", "attach disk2", "detach disk2", "attach disk3", "detach disk3")
}

// TestDiskComesBack asks for a device while its last user leaves it.
func TestDiskComesBack(t *testing.T) {
	var ds disks
	m, device := &fakeMachine{detaching: make(chan struct{}), letGo: make(chan struct{})}, hostDevice(t)
	first := use(t, &ds, m, device)
	left := make(chan error, 1)
	go func() { left <- ds.leave(t.Context(), m, first) }()
	<-m.detaching
	brief, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := ds.use(brief, m, device); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("while it is detached: %v", err)
	}
	again := make(chan error, 1)
	go func() {
		_, err := ds.use(t.Context(), m, device)
		again <- err
	}()
	m.letGo <- struct{}{}
	if err := errors.Join(<-left, <-again); err != nil {
		t.Error(err)
	}
	m.check(t, "attach disk1", "detach disk1", "attach disk2")
}

func TestFindBlockDevices(t *testing.T) {
	device := hostDevice(t)
	dir := t.TempDir()
	link, file := filepath.Join(dir, "link"), filepath.Join(dir, "file")
	if err := errors.Join(os.Symlink(device.Path, link), os.WriteFile(file, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	found := inspectSources([]string{link, file, dir, "/dev/null", filepath.Join(dir, "none")}).blockDevices
	if len(found) != 1 || found[link] != device.BlockDevice {
		t.Errorf("found %+v, want %+v alone", found, device.BlockDevice)
	}
}

func TestOpenBlockDevice(t *testing.T) {
	device := hostDevice(t)
	// The container's path is something else on the host, or nothing.
	for _, path := range []string{"/dev/null", "/none", device.Path} {
		f, err := openBlockDevice(device.DeviceNumber, path, true)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		var st unix.Stat_t
		if err := unix.Fstat(int(f.Fd()), &st); err != nil || numberOf(&st) != device.DeviceNumber || st.Mode&unix.S_IFMT != unix.S_IFBLK {
			t.Errorf("%s: opened %+v, %v", path, st, err)
		}
	}
	none := virtcontainers.DeviceNumber{Major: 240, Minor: 12345}
	if _, err := openBlockDevice(none, device.Path, true); !errdefs.IsNotFound(err) {
		t.Errorf("another's path: %v", err)
	}
}
