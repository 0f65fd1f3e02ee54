package agent

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/containerd/errdefs"

	agentv1 "github.com/hyperhq/hyper/proto/hyper/agent/v1"
)

// testVolume is a volume of container c.
func testVolume(t *testing.T) (*volumes, string) {
	t.Helper()
	dir := t.TempDir()
	return &volumes{owner: map[string]string{dir: "c"}}, dir
}

func TestChangeVolume(t *testing.T) {
	v, dir := testVolume(t)
	at := time.Unix(1_700_000_000, 0)
	uid, gid := uint32(os.Getuid()), uint32(os.Getgid())
	err := v.change(&agentv1.ChangeVolumeRequest{ContainerId: "c", Target: dir, Changes: []*agentv1.VolumeChange{
		{Kind: agentv1.VolumeChange_DIRECTORY, Path: "a", Mode: 0o2750, Uid: uid, Gid: gid, Modified: timestamppb.New(at)},
		{Kind: agentv1.VolumeChange_FILE, Path: "f", Data: []byte("old"), Mode: 0o600, Uid: uid, Gid: gid},
		{Kind: agentv1.VolumeChange_FILE, Path: "f", Data: []byte("one"), Mode: 0o640, Uid: uid, Gid: gid},
		{Kind: agentv1.VolumeChange_FILE, Path: "f", Data: []byte("two"), Offset: 3, Mode: 0o640, Uid: uid, Gid: gid, Modified: timestamppb.New(at)},
		{Kind: agentv1.VolumeChange_LINK, Path: "l_tmp", Target: "f", Uid: uid, Gid: gid},
		{Kind: agentv1.VolumeChange_RENAME, Path: "l_tmp", Target: "l"},
		{Kind: agentv1.VolumeChange_DIRECTORY, Path: "gone", Uid: uid, Gid: gid, Mode: 0o700},
		{Kind: agentv1.VolumeChange_FILE, Path: "gone/f", Uid: uid, Gid: gid},
		{Kind: agentv1.VolumeChange_REMOVE, Path: "gone"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(filepath.Join(dir, "l")); err != nil || string(data) != "onetwo" {
		t.Errorf("the file has %q, %v", data, err)
	}
	for name, mode := range map[string]os.FileMode{"a": 0o750 | os.ModeSetgid | os.ModeDir, "f": 0o640} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || info.Mode() != mode || !info.ModTime().Equal(at) {
			t.Errorf("%s is %v of %v, %v", name, info.Mode(), info.ModTime(), err)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "gone")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what was removed: %v", err)
	}
}

// TestChangesStayInTheVolume has links in it that a container has made to lead
// the agent astray.
func TestChangesStayInTheVolume(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "outside")
	if err := os.WriteFile(outside, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, change := range []*agentv1.VolumeChange{
		{Kind: agentv1.VolumeChange_FILE, Path: "dir/outside", Data: []byte("x")},
		{Kind: agentv1.VolumeChange_FILE, Path: "file", Data: []byte("x"), Offset: 1},
		{Kind: agentv1.VolumeChange_DIRECTORY, Path: "dir/new"},
		{Kind: agentv1.VolumeChange_LINK, Path: "dir/new", Target: "x"},
		{Kind: agentv1.VolumeChange_RENAME, Path: "own", Target: "dir/outside"},
		{Kind: agentv1.VolumeChange_REMOVE, Path: "dir/outside"},
		{Kind: agentv1.VolumeChange_FILE, Path: "../outside"},
		{Kind: agentv1.VolumeChange_FILE, Path: outside},
		{Kind: agentv1.VolumeChange_RENAME, Path: "own", Target: "../outside"},
		{Kind: agentv1.VolumeChange_DIRECTORY, Path: ""},
		{Path: "own"},
	} {
		v, dir := testVolume(t)
		err := errors.Join(
			os.Symlink(filepath.Dir(outside), filepath.Join(dir, "dir")),
			os.Symlink(outside, filepath.Join(dir, "file")),
			os.WriteFile(filepath.Join(dir, "own"), nil, 0o600),
		)
		if err != nil {
			t.Fatal(err)
		}
		if err := v.change(&agentv1.ChangeVolumeRequest{ContainerId: "c", Target: dir, Changes: []*agentv1.VolumeChange{change}}); err == nil {
			t.Errorf("%v was made", change)
		}
		entries, err := os.ReadDir(filepath.Dir(outside))
		data, readErr := os.ReadFile(outside)
		if err != nil || readErr != nil || len(entries) != 1 || string(data) != "precious" {
			t.Fatalf("%v left %v, %q outside", change, entries, data)
		}
	}
}

func TestOnlyVolumesOfTheContainerAreChanged(t *testing.T) {
	v, dir := testVolume(t)
	for _, c := range []struct {
		container, target string
		size              uint64
		kind              error
	}{
		{"c", "", 0, errdefs.ErrNotFound},
		{"c", filepath.Dir(dir), 0, errdefs.ErrNotFound},
		{"c", dir + "/.", 0, errdefs.ErrNotFound},
		{"other", dir, 0, errdefs.ErrNotFound},
		{"c", "/etc", 1 << 20, errdefs.ErrInvalidArgument},
		{"c", volumesDir + "/c", 1 << 20, errdefs.ErrInvalidArgument},
		{"c", volumesDir + "/other/v", 1 << 20, errdefs.ErrInvalidArgument},
		{"c", volumesDir + "/c/../other/v", 1 << 20, errdefs.ErrInvalidArgument},
		{"..", volumesDir + "/v", 1 << 20, errdefs.ErrInvalidArgument},
	} {
		err := v.change(&agentv1.ChangeVolumeRequest{ContainerId: c.container, Target: c.target, Size: c.size})
		if !errors.Is(err, c.kind) {
			t.Errorf("%+v: %v", c, err)
		}
	}
}
