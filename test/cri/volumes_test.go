package cri

import (
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/hyperhq/hyper/test/harness"
)

// volume gives a container a directory or file of the node, as kubelet asks for it.
func volume(source, target string, change ...func(*runtimeapi.Mount)) edit {
	return func(c *runtimeapi.ContainerConfig) {
		m := &runtimeapi.Mount{HostPath: source, ContainerPath: target}
		for _, f := range change {
			f(m)
		}
		c.Mounts = append(c.Mounts, m)
	}
}

func readOnly(m *runtimeapi.Mount) { m.Readonly = true }

func recursivelyReadOnly(m *runtimeapi.Mount) { m.Readonly, m.RecursiveReadOnly = true, true }

func hostToContainer(m *runtimeapi.Mount) {
	m.Propagation = runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER
}

// mountAt mounts something on the node at a path, whose last element it makes, until
// the test ends or unmount is called.
func mountAt(t *testing.T, source, target, kind string, flags uintptr, data string) (unmount func()) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(source); flags&unix.MS_BIND != 0 && err == nil && !info.IsDir() {
		if err := os.WriteFile(target, nil, 0o640); err != nil {
			t.Fatal(err)
		}
	} else if err := os.MkdirAll(target, 0o750); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(source, target, kind, flags, data); err != nil {
		t.Fatalf("mounting %s at %s: %v", source, target, err)
	}
	unmount = func() { unix.Unmount(target, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW) }
	t.Cleanup(unmount)
	return unmount
}

// makePodDirs makes the directory in which kubelet has those of pods. Its mounts propagate
// to whom it concerns, be they made when a pod is there already: so has systemd all of a
// node's.
func (n *node) makePodDirs(t *testing.T) {
	t.Helper()
	n.podDirs = n.cell.HostDir(t, nil)
	mountAt(t, n.podDirs, n.podDirs, "", unix.MS_BIND, "")
	if err := unix.Mount("", n.podDirs, "", unix.MS_SHARED, ""); err != nil {
		t.Fatal(err)
	}
}

// podDir is a directory as kubelet's of a pod.
func (n *node) podDir(t *testing.T, files map[string]string) string {
	t.Helper()
	return harness.HostDirIn(t, n.podDirs, files)
}

// memoryVolume is a volume `emptyDir: {medium: Memory, sizeLimit: …}` as kubelet makes
// it, of a size in MiB, with the group of the pod's fsGroup.
func memoryVolume(t *testing.T, podDir string, mib int) string {
	t.Helper()
	dir := filepath.Join(podDir, "volumes", "kubernetes.io~empty-dir", "cache")
	mountAt(t, "tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%dm", mib))
	if err := os.Chown(dir, 0, 3000); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o777|os.ModeSetgid); err != nil {
		t.Fatal(err)
	}
	return dir
}

// testMemoryVolume has two containers share a volume in memory: it is as large as it
// was asked for, counts as memory of who writes, and lives on when a container ends.
func testMemoryVolume(t *testing.T, n *node) {
	podDir := n.podDir(t, nil)
	dir := memoryVolume(t, podDir, 8)
	p := n.shared(t)
	writer := p.sleeper(t, volume(dir, "/cache"))
	if got := writer.sh(t, "stat -f -c %T /cache; stat -c '%a %u:%g' /cache; df -m /cache | awk 'END {print $2}'"); got != "tmpfs\n2777 0:3000\n8" {
		t.Errorf("the volume is %q", got)
	}
	if got := writer.sh(t, "mkdir /cache/sub && echo kept > /cache/sub/file && dd if=/dev/zero of=/cache/zeros bs=1M count=20 2>&1"+
		" | grep -o 'No space left'; stat -c %s /cache/zeros; rm /cache/zeros"); got != fmt.Sprintf("No space left\n%d", (8<<20)-4096) {
		t.Errorf("writing too much: %q", got)
	}
	neighbour := p.sleeper(t, volume(dir, "/also", readOnly))
	if got := neighbour.sh(t, "cat /also/sub/file; touch /also/x 2>/dev/null || echo no"); got != "kept\nno" {
		t.Errorf("its neighbour sees %q", got)
	}
	neighbour.sh(t, "stat -f -c %T /also")
	writer.stop(t, 0)
	writer.remove(t)
	// It is started anew, and asks for a part of the volume too.
	sub := filepath.Join(podDir, "volume-subpaths", "cache", "c", "0")
	if err := os.MkdirAll(filepath.Join(dir, "sub"), 0o750); err != nil {
		t.Fatal(err)
	}
	mountAt(t, filepath.Join(dir, "sub"), sub, "", unix.MS_BIND, "")
	again := p.sleeper(t, volume(dir, "/cache"), volume(sub, "/sub"))
	if got := again.sh(t, "cat /cache/sub/file /sub/file; echo new > /sub/new; cat /cache/sub/new; stat -f -c %T /sub"); got != "kept\nkept\nnew\ntmpfs" {
		t.Errorf("the container that was started anew sees %q", got)
	}
}

// testMemoryVolumeCounts limits the memory of a container that fills a volume.
func testMemoryVolumeCounts(t *testing.T, n *node) {
	dir := memoryVolume(t, n.podDir(t, nil), 100)
	p := n.shared(t)
	neighbour := p.sleeper(t, volume(dir, "/cache"))
	c := p.run(t, []string{"sh", "-c", "dd if=/dev/zero of=/cache/zeros bs=1M count=60; echo survived"}, volume(dir, "/cache"), func(c *runtimeapi.ContainerConfig) {
		c.Linux.Resources = &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 32 << 20, MemorySwapLimitInBytes: 32 << 20}
	})
	if s := c.exit(t); strings.Contains(c.output(t), "60+0 records out") {
		t.Errorf("it wrote 60 MiB with a limit of 32: %d, %s, %q", s.ExitCode, s.Reason, c.output(t))
	}
	if got := neighbour.exec(t, "echo", "alive"); got != "alive" {
		t.Errorf("its neighbour says %q", got)
	}
}

// testSubPaths binds a directory and a single file of a volume as kubelet does, and
// others when the container is started anew.
func testSubPaths(t *testing.T, n *node) {
	podDir := n.podDir(t, map[string]string{
		"volumes/kubernetes.io~empty-dir/v/one/file": "one\n", "volumes/kubernetes.io~empty-dir/v/two/file": "two\n",
		"volumes/kubernetes.io~empty-dir/v/config": "first\n", "volumes/kubernetes.io~empty-dir/v/secret": "unshared\n",
	})
	v := filepath.Join(podDir, "volumes", "kubernetes.io~empty-dir", "v")
	at := func(i int) string { return filepath.Join(podDir, "volume-subpaths", "v", "c", fmt.Sprint(i)) }
	bind := func(i int, name string) (unmount func()) {
		return mountAt(t, filepath.Join(v, name), at(i), "", unix.MS_BIND, "")
	}
	p := n.shared(t)
	with := []edit{volume(at(0), "/sub"), volume(at(1), "/etc/app/config")}
	unbind0, unbind1 := bind(0, "one"), bind(1, "config")
	c := p.sleeper(t, with...)
	if got := c.sh(t, "cat /sub/file /etc/app/config; ls /sub/.. | grep -c config; ls /etc/app; echo written >> /etc/app/config; echo x > /sub/new"); got != "one\nfirst\n0\nconfig" {
		t.Errorf("the container sees %q", got)
	}
	for name, want := range map[string]string{"config": "first\nwritten\n", "one/new": "x\n"} {
		if got, err := os.ReadFile(filepath.Join(v, name)); string(got) != want {
			t.Errorf("the host reads %q of %s, %v", got, name, err)
		}
	}
	c.stop(t, 0)
	c.remove(t)
	unbind0()
	unbind1()
	bind(0, "two")
	if err := os.Rename(filepath.Join(v, "secret"), filepath.Join(v, "config")); err != nil {
		t.Fatal(err)
	}
	bind(1, "config")
	if got := p.sleeper(t, with...).sh(t, "cat /sub/file /etc/app/config; ls /sub"); got != "two\nunshared\nfile" {
		t.Errorf("the container that was started anew sees %q", got)
	}
}

// testVolumeDevices gives a container block devices as kubelet gives those of
// volumeDevices.
func testVolumeDevices(t *testing.T, n *node) {
	const size = 1 << 20
	both, only := n.cell.NewLoop(t, "to change", size), n.cell.NewLoop(t, "to read", size)
	// What kubelet names is a link to the device.
	link := filepath.Join(n.cell.HostDir(t, nil), "volumeDevices")
	if err := os.Symlink(both.Path, link); err != nil {
		t.Fatal(err)
	}
	devices := func(c *runtimeapi.ContainerConfig) {
		c.Devices = []*runtimeapi.Device{
			{HostPath: link, ContainerPath: "/dev/xvda", Permissions: "mrw"},
			{HostPath: only.Path, ContainerPath: "/dev/xvdb", Permissions: "r"},
		}
	}
	p := n.shared(t)
	for i, want := range []string{"to change", "written 0"} {
		c := p.sleeper(t, devices)
		if got := c.sh(t, "stat -c %F /dev/xvda; wc -c < /dev/xvda; head -n 1 /dev/xvda /dev/xvdb | grep -v = | xargs"); got != fmt.Sprintf("block special file\n%d\n%s to read", size, want) {
			t.Errorf("attempt %d reads %q", i, got)
		}
		if got := c.sh(t, fmt.Sprintf("printf 'written %d\\n' | dd of=/dev/xvda conv=notrunc,fsync 2>/dev/null && echo wrote; (echo x > /dev/xvdb) 2>/dev/null || echo no", i)); got != "wrote\nno" {
			t.Errorf("attempt %d writes: %q", i, got)
		}
		c.stop(t, 0)
		c.remove(t)
	}
	for l, want := range map[*harness.Loop]string{both: "written 1", only: "to read\n"} {
		if got := l.Begins(t, len(want)); got != want {
			t.Errorf("the host reads %q, want %q", got, want)
		}
	}
}

// testConfigMap changes a ConfigMap's volume under a program that waits for that.
func testConfigMap(t *testing.T, n *node) {
	v := n.cell.NewKubeVolume(t, map[string]string{"key": "one\n"})
	p := n.shared(t)
	c := p.sleeper(t, volume(v.Dir, "/etc/cfg", readOnly))
	watcher := p.run(t, []string{"probe", "watch", "/etc/cfg"}, volume(v.Dir, "/etc/cfg", readOnly))
	harness.Eventually(t, patience, func() error {
		if out := watcher.output(t); !strings.HasPrefix(out, "watching") {
			return fmt.Errorf("the watcher says %q", out)
		}
		return nil
	})
	if got := c.sh(t, "cat /etc/cfg/key; touch /etc/cfg/x 2>/dev/null || echo no"); got != "one\nno" {
		t.Errorf("at first the container reads %q", got)
	}
	v.Write(map[string]string{"key": "two\n"})
	changed := time.Now()
	harness.Eventually(t, patience/4, func() error {
		if out := watcher.output(t); !strings.Contains(out, "moved ..data") {
			return fmt.Errorf("the change is not seen: %q", out)
		}
		return nil
	})
	took, limit := time.Since(changed), harness.Allow(time.Second)
	t.Logf("the container saw the change after %v", took)
	if took > limit {
		t.Errorf("the container saw the change after %v, and is to within %v", took, limit)
	}
	if got := c.sh(t, "cat /etc/cfg/key"); got != "two" {
		t.Errorf("after the change the container reads %q", got)
	}
}

// testSocket binds a socket of the node, whose server echoes: what a container sends
// through it comes back once all of it was sent.
func testSocket(t *testing.T, n *node) {
	// Its name must be short.
	dir, err := os.MkdirTemp("", "sock")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { // ends with the container at the latest
				defer conn.Close()
				io.Copy(conn, conn)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		serving.Wait()
	})
	c := n.shared(t).sleeper(t, volume(l.Addr().String(), "/run/api.sock"))
	if got := c.sh(t, "for i in 1 2 3; do echo text $i | probe dial /run/api.sock; done"); got != "text 1\ntext 2\ntext 3" {
		t.Errorf("it answers %q", got)
	}
}

// testReadOnlyVolumes has mounts on the node below one that is read-only.
func testReadOnlyVolumes(t *testing.T, n *node) {
	dir := n.podDir(t, map[string]string{"file": "x\n"})
	mountAt(t, "tmpfs", filepath.Join(dir, "below"), "tmpfs", 0, "mode=777")
	// A virtual machine has one file system of both.
	want := "x\nno"
	if n.cell.Handler() == "hyper" {
		want = "x\nno\nnot below"
	}
	const try = "cat /v/file; echo y > /v/new || echo no; echo y > /v/below/new || echo not below"
	p := n.shared(t)
	if got := p.sleeper(t, volume(dir, "/v", readOnly)).sh(t, "exec 2>/dev/null; "+try); got != want {
		t.Errorf("read-only, the container says %q", got)
	}
	if strings.HasPrefix(n.cell.Version, "1.") {
		return // which knows no other
	}
	if got := p.sleeper(t, volume(dir, "/v", recursivelyReadOnly)).sh(t, "exec 2>/dev/null; "+try); got != "x\nno\nnot below" {
		t.Errorf("recursively read-only, the container says %q", got)
	}
}

// testPropagation mounts on the node below what a container has.
func testPropagation(t *testing.T, n *node) {
	dir := n.podDir(t, nil)
	shared := filepath.Join(dir, "shared")
	mountAt(t, "tmpfs", shared, "tmpfs", 0, "")
	if err := unix.Mount("", shared, "", unix.MS_SHARED, ""); err != nil {
		t.Fatal(err)
	}
	later := filepath.Join(shared, "later")
	if err := os.Mkdir(later, 0o755); err != nil {
		t.Fatal(err)
	}
	p := n.shared(t)
	follower := p.sleeper(t, volume(shared, "/v", hostToContainer))
	private := p.sleeper(t, volume(shared, "/v"))
	unmount := mountAt(t, "tmpfs", later, "tmpfs", 0, "")
	if err := os.WriteFile(filepath.Join(later, "file"), []byte("x\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	expect := func(c *container, want string) {
		t.Helper()
		harness.Eventually(t, patience/4, func() error {
			if got := c.sh(t, "ls /v/later"); got != want {
				return fmt.Errorf("the container lists %q, want %q", got, want)
			}
			return nil
		})
	}
	expect(follower, "file")
	expect(private, "")
	unmount()
	expect(follower, "")
}

// testVolumeGone takes a volume away from a container that runs.
func testVolumeGone(t *testing.T, n *node) {
	dir := n.cell.HostDir(t, map[string]string{"volume/file": "x\n"})
	gone := filepath.Join(dir, "volume")
	p := n.shared(t)
	c := p.sleeper(t, volume(gone, "/v"))
	if got := c.sh(t, "cat /v/file"); got != "x" {
		t.Fatalf("at first it reads %q", got)
	}
	if err := os.RemoveAll(gone); err != nil {
		t.Fatal(err)
	}
	harness.Eventually(t, patience/4, func() error {
		if got := c.sh(t, "cat /v/file 2>&1 || true; touch /v/new 2>&1 || true"); strings.Count(got, "No such file") != 2 {
			return fmt.Errorf("of what is gone it says %q", got)
		}
		return nil
	})
	c.stop(t, 0)
	c.remove(t)
	// The node has another of that name when it is started anew.
	if err := os.Mkdir(gone, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(gone, "file"), []byte("y\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got := p.sleeper(t, volume(gone, "/v")).sh(t, "cat /v/file; touch /v/new && echo wrote"); got != "y\nwrote" {
		t.Errorf("of the new volume it says %q", got)
	}
}

// testUserNamespace has root of a pod be nobody on the node (hostUsers: false), with
// volumes whose files are the pod's all the same.
func testUserNamespace(t *testing.T, n *node) {
	if n.cell.Handler() != "hyper" {
		t.Skip("the distribution's runc maps no ids of mounts")
	}
	const first, count = 100000, 65536
	ids := []*runtimeapi.IDMapping{{ContainerId: 0, HostId: first, Length: count}}
	mapped := func(m *runtimeapi.Mount) { m.UidMappings, m.GidMappings = ids, ids }
	podDir := n.podDir(t, map[string]string{"volume/file": "of root\n"})
	memory := memoryVolume(t, podDir, 8)
	config := n.cell.NewKubeVolume(t, map[string]string{"key": "one\n"})
	p := n.pod(t, func(c *runtimeapi.PodSandboxConfig) {
		c.Linux.SecurityContext.NamespaceOptions.UsernsOptions = &runtimeapi.UserNamespace{Mode: runtimeapi.NamespaceMode_POD, Uids: ids, Gids: ids}
	})
	c := p.sleeper(t,
		volume(filepath.Join(podDir, "volume"), "/v", mapped), volume(memory, "/cache", mapped), volume(config.Dir, "/cfg", mapped, readOnly))
	tests := map[string][2]string{
		"ids":       {"cat /proc/self/uid_map | xargs; id -u", fmt.Sprintf("0 %d %d 0", first, count)},
		"image":     {"stat -c %u:%g /etc/passwd; touch /root/x && stat -c %u:%g /root/x", "0:0 0:0"},
		"volume":    {"stat -c %u:%g /v/file; echo x > /v/new && chown 5:6 /v/new && stat -c %u:%g /v/new", "0:0 5:6"},
		"memory":    {"stat -c %u:%g /cache; echo x > /cache/x && stat -c %u:%g /cache/x", "0:3000 0:3000"},
		"ConfigMap": {"cat /cfg/key; stat -Lc %u:%g /cfg/key", "one 0:3000"},
		"files":     {"stat -c %u:%g /etc/hosts /etc/resolv.conf | uniq; echo x > /dev/shm/x && echo shm", "0:0 shm"},
	}
	var script strings.Builder
	for what, test := range tests {
		fmt.Fprintf(&script, "echo %s: $(%s)\n", what, test[0])
	}
	said := fields(t, c, script.String())
	for what, test := range tests {
		if said[what] != test[1] {
			t.Errorf("%s: got %q, want %q", what, said[what], test[1])
		}
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(podDir, "volume", "new"), &st); err != nil || st.Uid != 5 || st.Gid != 6 {
		t.Errorf("the container's file is of %d:%d on the node, %v", st.Uid, st.Gid, err)
	}
}
