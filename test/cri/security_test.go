package cri

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// fields are what a script says in lines of a name, a colon and a value, as proc(5)'s
// status does. One exec asks for all: each is half a second of an emulated processor.
func fields(t *testing.T, c *container, script string) map[string]string {
	t.Helper()
	all := make(map[string]string)
	for line := range strings.Lines(c.sh(t, script)) {
		name, value, ok := strings.Cut(line, ":")
		if !ok {
			t.Fatalf("%s: it says %q", script, line)
		}
		all[name] = strings.TrimSpace(value)
	}
	return all
}

// ofProcess is the status of a process in the container.
const ofProcess = "cat /proc/self/status"

// testUsers runs processes as other users.
func testUsers(t *testing.T, n *node) {
	p := n.shared(t)
	id := func(v int64) *runtimeapi.Int64Value { return &runtimeapi.Int64Value{Value: v} }
	for _, test := range []struct {
		name  string
		edit  edit
		wants map[string]string // of id's flags
	}{
		{"nobody says anything", func(*runtimeapi.ContainerConfig) {}, map[string]string{"-u": "0", "-g": "0"}},
		{"ids", func(c *runtimeapi.ContainerConfig) {
			security(c).RunAsUser, security(c).RunAsGroup, security(c).SupplementalGroups = id(4000), id(5000), []int64{6000, 6001}
		}, map[string]string{"-u": "4000", "-g": "5000", "-G": "5000 6000 6001"}},
		// The image's groups of a user are added to those asked for.
		{"a user of the image", func(c *runtimeapi.ContainerConfig) {
			security(c).RunAsUsername, security(c).SupplementalGroups = "user", []int64{6000}
		}, map[string]string{"-u": "1000", "-g": "1000", "-G": "1000 10 29 6000"}},
	} {
		c := p.sleeper(t, test.edit)
		got := fields(t, c, "for flag in -u -g -G; do echo $flag: $(id $flag); done; grep ^Uid: /proc/self/status")
		for flag, want := range test.wants {
			if got[flag] != want {
				t.Errorf("%s: id %s says %q, want %q", test.name, flag, got[flag], want)
			}
		}
		if !strings.HasPrefix(got["Uid"], test.wants["-u"]+"\t") {
			t.Errorf("%s: the process's user is %q", test.name, got["Uid"])
		}
		c.stop(t, 0)
	}
}

// testStrictGroups leaves out the groups that the image gives a user.
func testStrictGroups(t *testing.T, n *node) {
	c := n.shared(t).sleeper(t, func(c *runtimeapi.ContainerConfig) {
		security(c).RunAsUsername, security(c).SupplementalGroups = "user", []int64{6000}
		security(c).SupplementalGroupsPolicy = runtimeapi.SupplementalGroupsPolicy_Strict
	})
	if got := c.exec(t, "id", "-G"); got != "1000 6000" {
		t.Errorf("its groups are %q", got)
	}
}

// testCapabilities adds and drops some.
func testCapabilities(t *testing.T, n *node) {
	p := n.shared(t)
	// CAP_CHOWN is 0 and CAP_NET_ADMIN is 12; the first is in the default set.
	const chown, netAdmin = 1 << 0, 1 << 12
	for _, test := range []struct {
		name        string
		change      *runtimeapi.Capability
		with, alone uint64 // bits that must be, and that alone may be
	}{
		{"default", nil, chown, ^uint64(netAdmin)},
		{"added", &runtimeapi.Capability{AddCapabilities: []string{"NET_ADMIN"}}, chown | netAdmin, ^uint64(0)},
		{"dropped", &runtimeapi.Capability{DropCapabilities: []string{"CHOWN"}}, 0, ^uint64(chown)},
		{"only one", &runtimeapi.Capability{AddCapabilities: []string{"NET_ADMIN"}, DropCapabilities: []string{"ALL"}}, netAdmin, netAdmin},
	} {
		c := p.sleeper(t, func(c *runtimeapi.ContainerConfig) { security(c).Capabilities = test.change })
		status := fields(t, c, ofProcess)
		for _, set := range []string{"CapEff", "CapPrm", "CapBnd"} {
			var got uint64
			if _, err := fmt.Sscanf(status[set], "%x", &got); err != nil {
				t.Fatalf("%s is %q: %v", set, status[set], err)
			}
			if got&test.with != test.with || got&^test.alone != 0 {
				t.Errorf("%s: %s is %016x, want %016x and at most %016x", test.name, set, got, test.with, test.alone)
			}
		}
		c.stop(t, 0)
	}
}

// testSeccomp filters system calls by containerd's profile and by one from a file.
func testSeccomp(t *testing.T, n *node) {
	p := n.shared(t)
	profile, err := json.Marshal(map[string]any{
		"defaultAction": "SCMP_ACT_ALLOW",
		"syscalls":      []any{map[string]any{"names": []string{"mkdir", "mkdirat"}, "action": "SCMP_ACT_ERRNO", "errnoRet": 28}},
	})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "seccomp.json")
	if err := os.WriteFile(file, profile, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name    string
		profile *runtimeapi.SecurityProfile
		mode    string
		keyring string // what add_key(2) says, which the default profile forbids
		mkdir   string
	}{
		{"unconfined", &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Unconfined}, "0", "<nil>", ""},
		{"default", &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}, "2", "operation not permitted", ""},
		{"file", &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: file}, "2", "<nil>", "No space left on device"},
	} {
		c := p.sleeper(t, func(c *runtimeapi.ContainerConfig) { security(c).Seccomp = test.profile })
		got := fields(t, c, "grep ^Seccomp: /proc/self/status; echo keyring: $(probe keyring); echo mkdir: $(mkdir /tmp/made 2>&1)")
		if got["Seccomp"] != test.mode {
			t.Errorf("%s: the mode is %s, want %s", test.name, got["Seccomp"], test.mode)
		}
		if got["keyring"] != test.keyring {
			t.Errorf("%s: add_key says %q, want %q", test.name, got["keyring"], test.keyring)
		}
		if got := got["mkdir"]; !strings.Contains(got, test.mkdir) || test.mkdir == "" && got != "" {
			t.Errorf("%s: mkdir says %q, want %q", test.name, got, test.mkdir)
		}
		c.stop(t, 0)
	}
}

// testReadonlyRootfs writes where it may and where not.
func testReadonlyRootfs(t *testing.T, n *node) {
	c := n.shared(t).sleeper(t, func(c *runtimeapi.ContainerConfig) { security(c).ReadonlyRootfs = true })
	if got := c.sh(t, "echo x > /etc/x || echo refused; echo x > /dev/shm/x && cat /dev/shm/x"); got != "refused\nx" {
		t.Errorf("got %q", got)
	}
}

// testNoNewPrivileges forbids what set-user-id programs do.
func testNoNewPrivileges(t *testing.T, n *node) {
	p := n.shared(t)
	for _, forbidden := range []bool{true, false} {
		c := p.sleeper(t, func(c *runtimeapi.ContainerConfig) { security(c).NoNewPrivs = forbidden })
		want := map[bool]string{true: "1", false: "0"}[forbidden]
		if got := fields(t, c, ofProcess)["NoNewPrivs"]; got != want {
			t.Errorf("it is %s, want %s", got, want)
		}
	}
}

// testPaths hides files of proc and makes others read-only.
func testPaths(t *testing.T, n *node) {
	c := n.shared(t).sleeper(t, func(c *runtimeapi.ContainerConfig) {
		security(c).MaskedPaths = []string{"/proc/version", "/etc/os-release", "/home"}
		security(c).ReadonlyPaths = []string{"/proc/sys", "/var"}
	})
	if got := c.sh(t, "cat /proc/version /etc/os-release; ls /home"); got != "" {
		t.Errorf("masked files show %q", got)
	}
	if got := c.sh(t, "echo x > /proc/sys/kernel/hostname || echo refused; touch /var/x || echo refused"); got != "refused\nrefused" {
		t.Errorf("read-only files could be written: %q", got)
	}
}

// testPrivileged has all capabilities, no filter and may mount.
func testPrivileged(t *testing.T, n *node) {
	p := n.pod(t, func(c *runtimeapi.PodSandboxConfig) { c.Linux.SecurityContext.Privileged = true })
	c := p.sleeper(t, func(c *runtimeapi.ContainerConfig) { security(c).Privileged = true })
	if got := fields(t, c, ofProcess)["Seccomp"]; got != "0" {
		t.Errorf("a filter is on: %s", got)
	}
	if got := c.sh(t, "mkdir /tmp/m && mount -t tmpfs none /tmp/m && echo x > /tmp/m/x && cat /tmp/m/x && umount /tmp/m"); got != "x" {
		t.Errorf("mounting: %q", got)
	}
	// containerd 1 leaves it read-only.
	if got := c.sh(t, "grep ' /sys ' /proc/mounts | cut -d ' ' -f 4 | cut -d , -f 1"); got != "rw" && !strings.HasPrefix(n.cell.Version, "1.") {
		t.Errorf("/sys is mounted %q", got)
	}
	if got := p.sleeper(t).sh(t, "mount -t tmpfs none /tmp 2>/dev/null || echo refused"); got != "refused" {
		t.Errorf("an ordinary container of the pod may mount: %q", got)
	}
}
