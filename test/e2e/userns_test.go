package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/hyperhq/hyper/test/harness"
	"github.com/hyperhq/hyper/test/image"
)

// The ids of the host that stand for a container's, which begin with its root.
const (
	firstUID = 100000
	firstGID = 200000
	idCount  = 65536
)

// inUserNamespace shows a container's ids from inside, and tries what root of a
// user namespace can do and what it cannot.
const inUserNamespace = `
for f in uid_map gid_map setgroups; do echo $f $(cat /proc/self/$f); done
echo I am $(id -u):$(id -g)
echo image $(stat -c %u:%g:%a /etc/secret /home/user /tmp /bin/busybox)
touch /root/made && chown 1000:1000 /root/made && echo made $(stat -c %u:%g /root/made)
su -s /bin/sh user -c 'echo user $(id -u) $(id -G); touch /home/user/mine && stat -c %u:%g /home/user/mine; cat /etc/secret'
echo to stdout >/dev/stdout && echo to null >/dev/null && ls /dev/fd/ >/dev/null && echo streams
mkdir -p /tmp/m && mount -t tmpfs none /tmp/m 2>/dev/null || echo no mount
mknod /tmp/null c 1 3 2>/dev/null || echo no mknod
echo sys $(cat /sys/class/net/lo/mtu) $(stat -c %u /proc/self/status)
(ping -c 1 -W 2 127.0.0.1 || probe ping 127.0.0.1) >/dev/null 2>&1 && echo ping
mkfifo /tmp/said
probe listen 127.0.0.1:80 x >/tmp/said 2>&1 & head -n 1 /tmp/said
`

var wantInUserNamespace = fmt.Sprintf(`uid_map 0 %d %d
gid_map 0 %d %d
setgroups allow
I am 0:0
image 0:0:600 1000:1000:755 0:0:1777 0:0:755
made 1000:1000
user 1000 1000 10 29
1000:1000
cat: can't open '/etc/secret': Permission denied
to stdout
streams
no mount
no mknod
sys 65536 0
ping
listening
`, firstUID, idCount, firstGID, idCount)

// testCtrUserNamespace is `ctr run --uidmap --gidmap`.
func testCtrUserNamespace(t *testing.T, c *harness.Cell) {
	stdout, stderr, err := ctr(t, c, "", "run", "--rm", "--runtime", c.Runtime,
		"--uidmap", fmt.Sprintf("0:%d:%d", firstUID, idCount), "--gidmap", fmt.Sprintf("0:%d:%d", firstGID, idCount),
		image.Name, ctrID(t, c), "sh", "-c", "exec 2>&1"+inUserNamespace)
	if err != nil || stdout != wantInUserNamespace {
		t.Errorf("%v, %s\ngot:\n%s\nwant:\n%s", err, stderr, stdout, wantInUserNamespace)
	}
}

// testUserNamespaceMounts looks at files of the host from inside a user
// namespace, and from the host at what was made inside.
func testUserNamespaceMounts(t *testing.T, c *harness.Cell) {
	dir := hostDir(t, c, map[string]string{"root": "of the host\n", "mapped": "of the container\n", "kept": ""})
	for name, ids := range map[string][2]int{"mapped": {firstUID, firstGID}, "kept": {firstUID + 1000, firstGID + 1000}, ".": {firstUID, firstGID}} {
		if err := os.Chown(filepath.Join(dir, name), ids[0], ids[1]); err != nil {
			t.Fatal(err)
		}
	}
	script := `stat -c '%n %u:%g' /home/root /home/mapped /home/kept; echo more >>/home/mapped; touch /home/new; chown 5:6 /home/new
chown 0 /home/root 2>/dev/null || echo not mine`
	task := running(t, c, userNamespace, harness.Mount("bind", dir, "/home", "rbind"))
	r := task.Shell(t, script)
	if want := "/home/root 65534:65534\n/home/mapped 0:0\n/home/kept 1000:1000\nnot mine\n"; r.Status != 0 || r.Stdout != want {
		t.Errorf("got %+v, want %q", r, want)
	}
	info, err := os.Stat(filepath.Join(dir, "new"))
	if err != nil {
		t.Fatal(err)
	}
	if s := info.Sys().(*syscall.Stat_t); s.Uid != firstUID+5 || s.Gid != firstGID+6 {
		t.Errorf("a file of 5:6 in the container is of %d:%d on the host", s.Uid, s.Gid)
	}
	added := task.Exec(t, harness.Command{Args: []string{"sh", "-c", "id -u; tr -s ' ' </proc/self/uid_map; tty"}, Changes: func(p *specs.Process) {
		p.User = specs.User{UID: 1000, GID: 1000}
	}}, harness.IO{Terminal: true, StdinPipe: true})
	added.Start(t)
	if r := added.Finish(t); r.Status != 0 || !strings.HasPrefix(r.Stdout, fmt.Sprintf("1000\r\n 0 %d %d\r\n/dev/", firstUID, idCount)) {
		t.Errorf("an exec: %+v", r)
	}
}

// userNamespace gives a container a user namespace.
func userNamespace(s *specs.Spec) {
	s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
	s.Linux.UIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: firstUID, Size: idCount}}
	s.Linux.GIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: firstGID, Size: idCount}}
}
