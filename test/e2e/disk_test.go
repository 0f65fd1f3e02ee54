package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/hyperhq/hyper/test/harness"
	"github.com/hyperhq/hyper/test/image"
)

const diskSize = 1 << 20

// testDisks gives a container block devices of the host in each of the ways that
// there are.
func testDisks(t *testing.T, c *harness.Cell) {
	both, only := c.NewLoop(t, "to change", diskSize), c.NewLoop(t, "to read", diskSize)
	deep := c.NewLoop(t, "deep", diskSize)
	bound, closed := c.NewLoop(t, "bound", diskSize), c.NewLoop(t, "closed", diskSize)
	task := running(t, c,
		both.As("/dev/xvda", "rwm"), only.As("/dev/deep/er/xvdb", "r"), deep.As("/data/disk", "rw"),
		harness.Mount("bind", bound.Path, "/dev/xvdc", "rbind", "rw"), bound.Rule("rw"),
		harness.Mount("bind", closed.Path, "/dev/xvdd", "rbind", "rw"), // no rule
	)
	checkScripts(t, task, []struct{ what, script, want string }{
		{"its node", "stat -c '%F %a %u %g' /dev/xvda", "block special file 640 1000 29\n"},
		{"size", "wc -c < /dev/xvda", fmt.Sprintln(diskSize)},
		{"read", "head -n 1 /dev/xvda", "to change\n"},
		{"write", "printf 'was here' | dd of=/dev/xvda conv=notrunc 2>/dev/null && head -n 1 /dev/xvda", "was heree\n"},
		{"read what is read-only", "head -n 1 /dev/deep/er/xvdb", "to read\n"},
		{"write what is read-only", "(echo x > /dev/deep/er/xvdb) 2>/dev/null || echo no", "no\n"},
		{"outside of /dev", "head -n 1 /data/disk; stat -c '%a %u %g' /data/disk", "deep\n640 1000 29\n"},
		{"by a mount", "head -n 1 /dev/xvdc; printf BOUND | dd of=/dev/xvdc conv=notrunc 2>/dev/null", "bound\n"},
		{"a mount that no rule allows", "head -n 1 /dev/xvdd 2>/dev/null || echo no", "no\n"},
	})
	end(t, task)
	for l, want := range map[*harness.Loop]string{both: "was heree\n", only: "to read\n", bound: "BOUND\n", closed: "closed\n"} {
		if got := l.Begins(t, len(want)); got != want {
			t.Errorf("the host reads %q, want %q", got, want)
		}
	}
}

// testDiskCtr gives a device by ctr, to a privileged container too.
func testDiskCtr(t *testing.T, c *harness.Cell) {
	l := c.NewLoop(t, "by ctr", diskSize)
	for _, more := range [][]string{nil, {"--privileged"}} {
		id, err := c.NewID()
		if err != nil {
			t.Fatal(err)
		}
		args := append([]string{"run", "--rm", "--runtime", c.Runtime, "--device", l.Path}, more...)
		stdout, stderr, err := ctr(t, c, "", append(args, image.Name, id, "head", "-n", "1", l.Path)...)
		if err != nil || stdout != "by ctr\n" {
			t.Errorf("%q: %q, %q, %v", more, stdout, stderr, err)
		}
	}
}

// end kills a task, and returns when it is deleted.
func end(t *testing.T, task *harness.Task) {
	t.Helper()
	if err := task.Kill(t, 9, false); err != nil {
		t.Fatal(err)
	}
	task.Wait(t, harness.Patience)
	task.Delete(t)
}

// testDiskReadOnly gives a disk for reading only to a container that may use
// any device that its machine has.
func testDiskReadOnly(t *testing.T, c *harness.Cell) {
	l := c.NewLoop(t, "to read", diskSize)
	task := running(t, c, func(s *specs.Spec) {
		s.Linux.Resources.Devices = []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}
	}, harness.Mount("bind", l.Path, "/dev/xvda", "bind", "ro"))
	// The root filesystem may be on others.
	const numbers = `set -- $(stat -c '0x%t 0x%T' /dev/xvda); `
	if r := task.Shell(t, numbers+"head -n 1 /dev/xvda; cat /sys/dev/block/$(($1)):$(($2))/ro"); r.Stdout != "to read\n1\n" {
		t.Errorf("reading: %+v", r)
	}
	// Not by the node that the rules are for: the machine itself cannot.
	r := task.Shell(t, numbers+"mknod /dev/any b $(($1)) $(($2)) && head -n 1 /dev/any && (echo x > /dev/any) 2>/dev/null || echo no")
	if !strings.HasSuffix(r.Stdout, "no\n") {
		t.Errorf("writing: %+v", r)
	}
	end(t, task)
	if got := l.Begins(t, 7); got != "to read" {
		t.Errorf("the host reads %q", got)
	}
}

// testDiskAgain makes a container anew, whose disk has another number then, at a place
// in its root filesystem, while the pod that it is in lives on.
func testDiskAgain(t *testing.T, c *harness.Cell) {
	l, between := c.NewLoop(t, "again", diskSize), c.NewLoop(t, "between", diskSize)
	container := c.Container(t, l.As("/data/disk", "rw"), harness.Args("head", "-n", "1", "/data/disk"))
	if r := container.Run(t, harness.IO{}); r.Stdout != "again\n" {
		t.Errorf("at first: %+v", r)
	}
	running(t, c, between.As("/dev/xvda", "rw"))
	if r := container.Run(t, harness.IO{}); r.Stdout != "again\n" {
		t.Errorf("made anew: %+v", r)
	}
}

// testDiskShared gives two containers of a pod the same device, and takes it away
// again while the pod lives on.
func testDiskShared(t *testing.T, c *harness.Cell) {
	l := c.NewLoop(t, "first", diskSize)
	pod := running(t, c)
	one, two := running(t, c, l.As("/dev/a", "rwm")), running(t, c, l.As("/dev/b", "rm"))
	if a, b := one.Do(t, "stat", "-c", "%t:%T", "/dev/a"), two.Do(t, "stat", "-c", "%t:%T", "/dev/b"); a.Stdout != b.Stdout || a.Status != 0 {
		t.Errorf("they have different disks, %+v and %+v", a, b)
	}
	one.Shell(t, "printf again | dd of=/dev/a conv=notrunc,fsync")
	if r := two.Shell(t, "head -n 1 /dev/b; (echo x > /dev/b) 2>/dev/null || echo no"); r.Stdout != "again\nno\n" {
		t.Errorf("the other has %+v", r)
	}
	if r := pod.Shell(t, "ls /sys/block | grep -c ^vd"); r.Stdout != "1\n" {
		t.Errorf("the machine has disks: %+v", r)
	}
	end(t, one)
	if r := two.Shell(t, "head -n 1 /dev/b"); r.Stdout != "again\n" {
		t.Errorf("once the first is gone: %+v", r)
	}
	end(t, two)
	if r := pod.Shell(t, "ls /sys/block | grep -c ^vd"); r.Stdout != "0\n" {
		t.Errorf("once both are gone: %+v", r)
	}
	if got := l.Begins(t, 6); got != "again\n" {
		t.Errorf("the host reads %q", got)
	}
	checkLet(t, l)
	// And once more, with a machine that has had it.
	l = c.NewLoop(t, "second", diskSize)
	three := running(t, c, l.As("/dev/a", "rwm"))
	if r := three.Shell(t, "head -n 1 /dev/a"); r.Stdout != "second\n" {
		t.Errorf("a third has %+v", r)
	}
}

// testDiskWriters has a second writer beside a reader, in its pod and in another:
// neither may be, as they would not see what the other does.
func testDiskWriters(t *testing.T, c *harness.Cell) {
	l := c.NewLoop(t, "first", diskSize)
	id, err := c.NewID()
	if err != nil {
		t.Fatal(err)
	}
	reader := c.ContainerWithID(t, id, harness.Args("sleep", "1000"), inPod("sandbox", id), l.As("/dev/a", "r")).Create(t, harness.IO{})
	reader.Start(t)
	if _, err := c.Container(t, inPod("container", id), l.As("/dev/b", "rwm")).TryCreate(t, harness.IO{}); err == nil || !strings.Contains(err.Error(), "for reading only") {
		t.Errorf("a writer in its pod: %v", err)
	}
	if _, err := c.Container(t, l.As("/dev/b", "rwm")).TryCreate(t, harness.IO{}); err == nil || !strings.Contains(err.Error(), `"write" lock`) {
		t.Errorf("a writer in another pod: %v", err)
	}
	other := running(t, c, l.As("/dev/b", "r"))
	for _, task := range []*harness.Task{reader, other} {
		if r := task.Shell(t, "head -n 1 /dev/[ab]"); r.Stdout != "first\n" {
			t.Errorf("a reader has %+v", r)
		}
	}
}

// checkLet fails the test if some process still has the device open.
func checkLet(t *testing.T, l *harness.Loop) {
	t.Helper()
	if err := l.Remove(); err != nil {
		t.Error(err)
	}
	harness.Eventually(t, harness.Soon, func() error {
		if l.There() {
			return fmt.Errorf("%s is in use", l.Path)
		}
		return nil
	})
}

func inPod(kind, id string) harness.Option {
	return func(s *specs.Spec) {
		harness.Annotation("io.kubernetes.cri.container-type", kind)(s)
		harness.Annotation("io.kubernetes.cri.sandbox-id", id)(s)
	}
}

// testDiskFilesystem kills a container that writes to a file system on its disk: what
// it had written by then must be on the host.
func testDiskFilesystem(t *testing.T, c *harness.Cell) {
	l := c.NewLoop(t, "", 16<<20)
	mkfs, err := exec.LookPath("mkfs.ext4")
	if err != nil {
		t.Skip("the host has no mkfs.ext4:", err)
	}
	if err := c.RunCommand(exec.CommandContext(t.Context(), mkfs, "-q", "-F", l.Path)); err != nil {
		t.Fatal(err)
	}
	// The machine lives on, or its end would be what writes.
	task := running(t, c, l.As("/dev/xvda", "rwm"), func(s *specs.Spec) {
		for _, set := range []*[]string{&s.Process.Capabilities.Bounding, &s.Process.Capabilities.Effective, &s.Process.Capabilities.Permitted} {
			*set = append(*set, "CAP_SYS_ADMIN")
		}
		s.Linux.Seccomp = nil
	})
	if r := task.Shell(t, "mkdir /root/m && mount -t ext4 /dev/xvda /root/m && echo kept > /root/m/file"); r.Status != 0 {
		t.Fatalf("writing: %+v", r)
	}
	end(t, task)
	dir := hostDir(t, c, nil)
	if err := unix.Mount(l.Path, dir, "ext4", unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	if got, err := os.ReadFile(filepath.Join(dir, "file")); string(got) != "kept\n" {
		t.Errorf("the host reads %q, %v", got, err)
	}
}

// testDiskMissing asks for a block device that the host does not have.
func testDiskMissing(t *testing.T, c *harness.Cell) {
	l := &harness.Loop{Major: 240, Minor: 12345}
	container := c.Container(t, l.As("/dev/xvda", "rwm"))
	_, err := container.TryCreate(t, harness.IO{})
	if err == nil || !strings.Contains(err.Error(), "240:12345") {
		t.Errorf("got %v", err)
	}
}
