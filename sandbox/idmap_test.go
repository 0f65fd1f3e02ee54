package sandbox

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/hyperhq/hyper/virtcontainers"
)

// TestMappedBind looks at owners through binds, and gives a file away through one.
func TestMappedBind(t *testing.T) {
	s := newTestShare(t)
	dir, file := testVolume(t)
	if err := os.Chown(file, 7, 8); err != nil {
		t.Fatal(err)
	}
	ids := &virtcontainers.IDMap{
		UIDs: []specs.LinuxIDMapping{{ContainerID: 0, HostID: 1000, Size: 100}},
		GIDs: []specs.LinuxIDMapping{{ContainerID: 0, HostID: 2000, Size: 100}},
	}
	for place, private := range map[string]bool{"c1.1": true, "c1.2": false} {
		mounts := []virtcontainers.HostMount{
			{Type: "bind", Source: dir, Options: []string{"rbind"}, Target: "mounts/0", Private: private, IDs: ids},
			{Type: "bind", Source: file, Options: []string{"bind"}, Target: "mounts/1", Private: private, IDs: ids, ReadOnly: true},
		}
		err := s.add(place, mounts)
		if errors.Is(err, unix.ENOSYS) || errdefs.IsNotImplemented(err) {
			t.Skip("neither this kernel nor its file systems map ids:", err)
		}
		if err != nil {
			t.Fatal(err)
		}
		at := s.containerDir(place)
		given := filepath.Join(at, "mounts/0/beside")
		if err := os.Chown(given, 1005, 2006); err != nil {
			t.Error(err)
		}
		for path, want := range map[string][2]uint32{
			filepath.Join(at, "mounts/0/file"): {1007, 2008}, filepath.Join(at, "mounts/1"): {1007, 2008},
			given: {1005, 2006}, filepath.Join(dir, "beside"): {5, 6}, file: {7, 8},
		} {
			var st unix.Stat_t
			if err := unix.Stat(path, &st); err != nil || st.Uid != want[0] || st.Gid != want[1] {
				t.Errorf("private %v: %s is of %d:%d, want %v, %v", private, path, st.Uid, st.Gid, want, err)
			}
		}
		if err := s.drop(place); err != nil {
			t.Error(err)
		}
	}
}
