package agent

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	agentv1 "github.com/hyperhq/hyper/proto/hyper/agent/v1"
)

func TestDiskValidation(t *testing.T) {
	good := func() *agentv1.Disk {
		return &agentv1.Disk{Serial: "disk1", Path: "/dev/xvda", Mode: 0o640, Access: "rwm"}
	}
	if err := validateDisks([]*agentv1.Disk{good()}); err != nil {
		t.Error(err)
	}
	for name, spoil := range map[string]func(*agentv1.Disk){
		"no serial":      func(d *agentv1.Disk) { d.Serial = "" },
		"a long serial":  func(d *agentv1.Disk) { d.Serial = strings.Repeat("x", 21) },
		"a glob":         func(d *agentv1.Disk) { d.Serial = "*" },
		"no path":        func(d *agentv1.Disk) { d.Path = "" },
		"a relative one": func(d *agentv1.Disk) { d.Path = "dev/x" },
		"an unclean one": func(d *agentv1.Disk) { d.Path = "/dev/../x" },
		"the root":       func(d *agentv1.Disk) { d.Path = "/" },
		"a long one":     func(d *agentv1.Disk) { d.Path = "/" + strings.Repeat("x", 4096) },
		"a zero in it":   func(d *agentv1.Disk) { d.Path = "/dev/x\x00y" },
		"set-user-ID":    func(d *agentv1.Disk) { d.Mode = 0o4755 },
		"no access":      func(d *agentv1.Disk) { d.Access = "" },
		"a strange one":  func(d *agentv1.Disk) { d.Access = "rx" },
	} {
		d := good()
		spoil(d)
		if err := validateDisks([]*agentv1.Disk{good(), d}); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	var many []*agentv1.Disk
	for range maxDisks + 1 {
		many = append(many, good())
	}
	if err := validateDisks(many); !errdefs.IsInvalidArgument(err) {
		t.Errorf("too many: %v", err)
	}
}

// blockClassOf makes a directory as /sys/block, of files by their paths.
func blockClassOf(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestFindDisk(t *testing.T) {
	class := blockClassOf(t, map[string]string{
		"loop0/dev":  "7:0\n",
		"vda/serial": "disk1", "vda/dev": "254:0\n",
		"vdb/serial": "disk12", "vdb/dev": "254:16\n",
		"vdc/serial": "odd", "vdc/dev": "x\n",
	})
	if got, err := findDisk(t.Context(), class, "disk12"); err != nil || got != (blockDevice{254, 16}) {
		t.Errorf("found %v, %v", got, err)
	}
	if got, err := findDisk(t.Context(), class, "odd"); err == nil {
		t.Errorf("a number that is none: %v", got)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if got, err := findDisk(ctx, class, "disk"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("one that is not there: %v, %v", got, err)
	}
}

func TestDiskInSpec(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to make a node")
	}
	spec := &specs.Spec{Linux: &specs.Linux{}}
	dir := filepath.Join(t.TempDir(), "nodes", "c1")
	disks := []foundDisk{{&agentv1.Disk{Path: "/dev/x", Mode: 0o646, Uid: 1, Gid: 2, Access: "r"}, blockDevice{254, 16}}}
	if err := addDisks(spec, dir, disks); err != nil {
		t.Fatal(err)
	}
	node := filepath.Join(dir, "0")
	if m := spec.Mounts; len(m) != 1 || m[0].Destination != "/dev/x" || m[0].Source != node || m[0].Type != "bind" {
		t.Errorf("mounts %+v", m)
	}
	var st unix.Stat_t
	if err := unix.Stat(node, &st); err != nil {
		t.Fatal(err)
	}
	if st.Mode != unix.S_IFBLK|0o646 || st.Uid != 1 || st.Gid != 2 || st.Rdev != unix.Mkdev(254, 16) {
		t.Errorf("its node is %+v", st)
	}
	rules := spec.Linux.Resources.Devices
	if len(rules) != 2 || rules[0].Allow || rules[0].Access != "rwm" || !rules[1].Allow || rules[1].Access != "r" {
		t.Fatalf("rules %+v", rules)
	}
	for _, r := range rules {
		if r.Type != "b" || *r.Major != 254 || *r.Minor != 16 {
			t.Errorf("a rule for %s %d:%d", r.Type, *r.Major, *r.Minor)
		}
	}
	if err := addDisks(spec, dir, disks); err == nil {
		t.Error("a container's nodes were made twice")
	}
}
