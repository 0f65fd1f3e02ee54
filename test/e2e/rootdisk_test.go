package e2e

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/hyperhq/hyper/test/harness"
)

// rootType prints what kind of file system a container has as its root.
const rootType = "awk '$2 == \"/\" {print $3}' /proc/mounts"

// The kinds by how the root filesystem comes.
const byShare, byDisk = "virtiofs\n", "overlay\n"

// rootfsBy configures how root filesystems come, for one test, beside what the cell's
// configuration says.
func rootfsBy(t *testing.T, c *harness.Cell, by string, more ...string) {
	t.Helper()
	c.DropInFor(t, "10-rootfs.toml", fmt.Sprintf("[rootfs]\nby = %q\n%s\n", by, strings.Join(more, "\n")))
}

// forgetImages removes the images that earlier tests have had built.
func forgetImages(t *testing.T, c *harness.Cell) {
	t.Helper()
	harness.Eventually(t, harness.Patience, func() error {
		// One that is being built would come back.
		if building, _ := filepath.Glob(filepath.Join(c.LayersDir(), "*.building")); len(building) > 0 {
			return fmt.Errorf("%s stays", building)
		}
		return nil
	})
	if err := os.RemoveAll(c.LayersDir()); err != nil {
		t.Fatal(err)
	}
}

// images are the images that there are.
func images(c *harness.Cell) []string {
	found, _ := filepath.Glob(filepath.Join(c.LayersDir(), "*.erofs"))
	return found
}

// awaitImage waits until an image has been built in the background.
func awaitImage(t *testing.T, c *harness.Cell) {
	t.Helper()
	harness.Eventually(t, harness.Patience, func() error {
		if len(images(c)) == 0 {
			return errors.New("there is no image")
		}
		return nil
	})
}

// testRootDiskFirst runs the same image twice: the first has it built.
func testRootDiskFirst(t *testing.T, c *harness.Cell) {
	forgetImages(t, c)
	if r := c.Run(t, harness.Sh(rootType)); r.Stdout != byShare {
		t.Errorf("the root of the first container: %+v", r)
	}
	awaitImage(t, c)
	if r := c.Run(t, harness.Sh(rootType)); r.Stdout != byDisk {
		t.Errorf("the root of the second container: %+v", r)
	}
	rootfsBy(t, c, "share")
	if r := c.Run(t, harness.Sh(rootType)); r.Stdout != byShare {
		t.Errorf("the root where the configuration wants the share: %+v", r)
	}
}

// inBothWays runs a test with the root filesystem by the share and by disks, which it
// gets to know as rootType prints it.
func inBothWays(t *testing.T, c *harness.Cell, test func(t *testing.T, root string)) {
	for _, way := range []struct{ by, root string }{{"share", byShare}, {"disk", byDisk}} {
		t.Run("by "+way.by, func(t *testing.T) {
			c.CheckLeaks(t)
			rootfsBy(t, c, way.by)
			test(t, way.root)
		})
	}
}

// testRootDiskFiles does what programs do with files.
func testRootDiskFiles(t *testing.T, c *harness.Cell) {
	inBothWays(t, c, func(t *testing.T, root string) {
		task := running(t, c)
		checkRootfs(t, task)
		r := task.Shell(t, rootType+"; mkdir /root/files && probe files /root/files")
		checks, is := strings.CutPrefix(r.Stdout, root)
		if !is || r.Status != 0 && r.Stderr == "" {
			t.Errorf("%+v", r)
		}
		for line := range strings.Lines(checks) {
			what, came, _ := strings.Cut(strings.TrimSpace(line), ": ")
			if came != "ok" && !unsupported(t, c, what) {
				t.Errorf("%s: %s", what, came)
			}
		}
	})
}

// unsupported says whether a check is of what is not there by no fault of ours.
func unsupported(t *testing.T, c *harness.Cell, what string) bool {
	kernel, _ := c.Guest()
	// Files without a name came to overlayfs after Linux 6.1, and QEMU's file daemon
	// in C does not know them.
	return what == "nameless" && (strings.Contains(kernel, "/cloud/") || strings.HasSuffix(t.Name(), "share"))
}

// changes is a script that changes a root filesystem in each way that a layer can tell
// of.
const changes = `set -e
rm /etc/secret
rm -r /home/user && mkdir /home/user && echo new > /home/user/new
echo more >> /etc/passwd
mkdir -p /new/deep && echo one > /new/deep/one && ln /new/deep/one /new/two && ln -s deep/one /new/symbolic
chown 1000:29 /new/two && chmod 4751 /new/two
probe setattr /new/two user.color red
mkfifo /new/fifo && mknod /new/null c 1 3
mv /etc/group /etc/renamed
truncate -s 100000 /new/sparse && echo end >> /new/sparse
touch -d '2001-02-03 04:05:06' /new/deep/one /new/deep
chmod 711 /root
rm -r /var && echo 'not a directory' > /var
printf 'odd' > "/new/odd
name"
touch /new/empty && rm /new/empty
`

// testRootDiskChanges compares what the host has of a container's changes with what it
// has of the same by the share.
func testRootDiskChanges(t *testing.T, c *harness.Cell) {
	var trees []string
	inBothWays(t, c, func(t *testing.T, root string) {
		container := c.Container(t, harness.Sh(rootType+"\n"+changes))
		if r := container.Run(t, harness.IO{}); r.Status != 0 || r.Stdout != root {
			t.Fatalf("%+v", r)
		}
		trees = append(trees, listTree(t, container.Upper()))
	})
	if len(trees) != 2 {
		t.Fatal("not both ways have ended")
	}
	if trees[0] != trees[1] {
		t.Errorf("by the share\n%s\nby disks\n%s", trees[0], trees[1])
	}
	if !strings.Contains(trees[1], "etc/secret Dc---------") {
		t.Errorf("no whiteout in\n%s", trees[1])
	}
}

// listTree describes all files below a directory, but for when they were changed in
// the test.
func listTree(t *testing.T, dir string) string {
	t.Helper()
	var lines []string
	err := filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		line, err := describe(path)
		lines = append(lines, fmt.Sprintf("%q %s", name, line))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(lines)
	return strings.ReplaceAll(strings.Join(lines, "\n"), `"`, "")
}

func describe(path string) (string, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return "", err
	}
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return "", err
	}
	line := fmt.Sprintf("%s %d:%d", info.Mode(), st.Uid, st.Gid)
	if info.Mode().IsRegular() {
		data, err := os.ReadFile(path)
		if err != nil {
			return "", err
		}
		line += fmt.Sprintf(" %d links, %d bytes: %.20q", st.Nlink, len(data), strings.Trim(string(data), "\x00"))
	}
	if info.Mode()&fs.ModeDevice != 0 {
		line += fmt.Sprintf(" %d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
	}
	if target, err := os.Readlink(path); err == nil {
		line += " -> " + target
	}
	if time.Since(info.ModTime()) > 24*time.Hour && info.Mode()&fs.ModeDevice == 0 {
		line += info.ModTime().UTC().Format(" 2006-01-02T15:04:05")
	}
	for _, name := range []string{"user.color", "trusted.overlay.opaque"} {
		value := make([]byte, 16)
		if n, err := unix.Lgetxattr(path, name, value); err == nil {
			line += fmt.Sprintf(" %s=%s", name, value[:n])
		}
	}
	return line, nil
}

// testRootDiskPaused looks at what a container has written while it is paused, as
// `nerdctl commit` does.
func testRootDiskPaused(t *testing.T, c *harness.Cell) {
	rootfsBy(t, c, "disk")
	task := running(t, c)
	file := filepath.Join(task.Container.Upper(), "root", "f")
	for _, text := range []string{"first", "second"} {
		if r := task.Shell(t, "echo "+text+" > /root/f; rm -f /root/"+text+"; touch /root/of-"+text); r.Status != 0 {
			t.Fatalf("%+v", r)
		}
		if err := task.Pause(t); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(file); string(got) != text+"\n" {
			t.Errorf("the host reads %q, %v", got, err)
		}
		if err := task.Resume(t); err != nil {
			t.Fatal(err)
		}
	}
	if r := task.Shell(t, "cat /root/f; ls /root"); r.Stdout != "second\nf\nof-first\nof-second\n" {
		t.Errorf("afterwards the container has %+v", r)
	}
}

// testRootDiskUndone has a container undo what it had written when it was paused.
func testRootDiskUndone(t *testing.T, c *harness.Cell) {
	rootfsBy(t, c, "disk")
	task := running(t, c)
	there := func(want string) {
		t.Helper()
		if got := listTree(t, task.Container.Upper()); got != want {
			t.Errorf("the host has\n%s\nwant\n%s", got, want)
		}
	}
	if r := task.Shell(t, "touch /f"); r.Status != 0 {
		t.Fatalf("%+v", r)
	}
	if err := errors.Join(task.Pause(t), task.Resume(t)); err != nil {
		t.Fatal(err)
	}
	there(". drwxr-xr-x 0:0\nf -rw-r--r-- 0:0 1 links, 0 bytes: ")
	if r := task.Shell(t, "rm /f"); r.Status != 0 {
		t.Fatalf("%+v", r)
	}
	if err := task.Kill(t, 9, true); err != nil {
		t.Fatal(err)
	}
	task.Finish(t)
	there(". drwxr-xr-x 0:0")
}

// testRootDiskAgain starts a container again, which finds what it has written.
func testRootDiskAgain(t *testing.T, c *harness.Cell) {
	rootfsBy(t, c, "disk")
	t.Run("written", func(t *testing.T) { testRootfsPersists(t, c) })
	t.Run("not written", func(t *testing.T) {
		container := c.Container(t, harness.Sh(rootType))
		for range 2 {
			if r := container.Run(t, harness.IO{}); r.Stdout != byDisk {
				t.Errorf("%+v", r)
			}
		}
	})
	t.Run("killed", func(t *testing.T) {
		container := c.Container(t, harness.Sh("cat /root/kept 2>/dev/null && exit; echo kept > /root/kept; sleep 100000"))
		task := container.Create(t, harness.IO{})
		task.Start(t)
		if r := task.Shell(t, "until [ -s /root/kept ]; do sleep 0.1; done"); r.Status != 0 {
			t.Fatalf("%+v", r)
		}
		if err := task.Kill(t, 9, true); err != nil {
			t.Fatal(err)
		}
		task.Finish(t)
		if r := container.Run(t, harness.IO{}); r.Stdout != "kept\n" {
			t.Errorf("%+v", r)
		}
	})
}

// testRootDiskReadOnly has a root filesystem that is only read.
func testRootDiskReadOnly(t *testing.T, c *harness.Cell) {
	inBothWays(t, c, func(t *testing.T, _ string) { testReadonlyRootfs(t, c) })
	rootfsBy(t, c, "disk")
	// A mount point that the image does not have is made, as it is without a machine.
	host := hostDir(t, c, map[string]string{"f": "from the host\n"})
	r := c.Run(t, harness.Sh("cat /not/there/f; touch /not/x 2>&1"), harness.Mount("bind", host, "/not/there", "rbind", "ro"),
		func(s *specs.Spec) { s.Root.Readonly = true })
	if r.Stdout != "from the host\ntouch: /not/x: Read-only file system\n" {
		t.Errorf("%+v", r)
	}
}

// testRootDiskFull fills the scratch disk: that is the container's error, and gone with
// it.
func testRootDiskFull(t *testing.T, c *harness.Cell) {
	rootfsBy(t, c, "disk", "scratch_mib = 32")
	withoutTemplates(t, c)
	task := running(t, c)
	checkScripts(t, task, []struct{ what, script, want string }{
		{"fill", "probe write 100000000 0 > /root/f 2>&1 || echo full; [ $(stat -c %s /root/f) -gt 20000000 ] && echo much", "full\nmuch\n"},
		{"still there", "cat /etc/secret", "only root\n"},
		{"room again", "rm /root/f && probe write 8000001 0 > /root/f && stat -c %s /root/f", "8000001\n"},
	})
	if err := task.Kill(t, 9, true); err != nil {
		t.Fatal(err)
	}
	task.Finish(t)
	if info, err := os.Stat(filepath.Join(task.Container.Upper(), "root", "f")); err != nil || info.Size() != 8000001 {
		t.Errorf("the host has %v, %v", info, err)
	}
}

// testRootDiskWithoutShare has a container that needs no share of files, and one that
// does.
func testRootDiskWithoutShare(t *testing.T, c *harness.Cell) {
	rootfsBy(t, c, "disk")
	for _, test := range []struct {
		name    string
		options []harness.Option
		daemons int
	}{
		{"nothing of the host", nil, 0},
		{"a directory", []harness.Option{harness.Mount("bind", hostDir(t, c, nil), "/host", "rbind", "ro")}, 2},
	} {
		t.Run(test.name, func(t *testing.T) {
			c.CheckLeaks(t)
			task := running(t, c, test.options...)
			if n := len(c.Program("virtiofsd")); n != test.daemons {
				t.Errorf("there are %d processes of virtiofsd", n)
			}
			if r := task.Shell(t, rootType+"; echo x > /root/f && cat /root/f"); r.Stdout != byDisk+"x\n" {
				t.Errorf("%+v", r)
			}
		})
	}
	t.Run("joined by one that needs it", func(t *testing.T) {
		c.CheckLeaks(t)
		first := running(t, c)
		join := harness.Annotation("io.containerd.runc.v2.group", first.Container.ID)
		if r := c.Run(t, join, harness.Sh(rootType)); r.Stdout != byDisk {
			t.Errorf("one that needs none: %+v", r)
		}
		host := hostDir(t, c, nil)
		checkRefused(t, c, []string{"share", host, "rootfs.by"}, join, harness.Mount("bind", host, "/host", "rbind", "ro"))
	})
}

// testRootDiskTwo has two machines with one image, and its content only once.
func testRootDiskTwo(t *testing.T, c *harness.Cell) {
	rootfsBy(t, c, "disk")
	first, second := running(t, c), running(t, c)
	for _, task := range []*harness.Task{first, second} {
		if r := task.Shell(t, rootType+"; echo mine > /root/f; cat /etc/secret"); r.Stdout != byDisk+"only root\n" {
			t.Errorf("%+v", r)
		}
	}
	if r := first.Shell(t, "rm /root/f /etc/secret; echo gone"); r.Stdout != "gone\n" {
		t.Errorf("%+v", r)
	}
	if r := second.Shell(t, "cat /root/f /etc/secret"); r.Stdout != "mine\nonly root\n" {
		t.Errorf("the second has %+v", r)
	}
	if found := images(c); len(found) != 1 {
		t.Errorf("there are the images %s", found)
	}
}

// testRootDiskPod has containers of one pod come and go, each with disks of its own.
func testRootDiskPod(t *testing.T, c *harness.Cell) {
	rootfsBy(t, c, "disk")
	first, next := newPod(t, c)
	for i := range 4 {
		r := next(harness.Sh(rootType+"; ls /root; echo mine > /root/f")).Run(t, harness.IO{})
		if r.Stdout != byDisk {
			t.Errorf("container %d: %+v", i, r)
		}
	}
	if r := first.Shell(t, rootType+"; ls /root"); r.Stdout != byDisk {
		t.Errorf("the first container has %+v", r)
	}
}

// testRootDiskDamaged damages the image on the disk, between two containers.
func testRootDiskDamaged(t *testing.T, c *harness.Cell) {
	rootfsBy(t, c, "disk")
	if r := c.Run(t, harness.Sh(rootType)); r.Stdout != byDisk {
		t.Fatalf("%+v", r)
	}
	for _, path := range images(c) {
		if err := os.Truncate(path, 8192); err != nil {
			t.Fatal(err)
		}
	}
	rootfsBy(t, c, "auto")
	if r := c.Run(t, harness.Sh(rootType)); r.Stdout != byShare {
		t.Errorf("with a damaged image: %+v", r)
	}
	awaitImage(t, c)
	if r := c.Run(t, harness.Sh(rootType)); r.Stdout != byDisk {
		t.Errorf("after it was built again: %+v", r)
	}
}

// testRootDiskKilledBuilder kills a builder in the middle of its work, and a shim while
// the image for its container is built.
func testRootDiskKilledBuilder(t *testing.T, c *harness.Cell) {
	t.Run("builder", func(t *testing.T) {
		c.CheckLeaks(t)
		layer := hostDir(t, c, nil)
		large := filepath.Join(layer, "large")
		makeFile(t, layer, "large")
		if err := os.Truncate(large, 4<<30); err != nil {
			t.Fatal(err)
		}
		build := func(ctx context.Context) *exitOf {
			cmd := c.ShimCommand(ctx, "/", "builder", "build-image")
			cmd.Stdin = strings.NewReader(fmt.Sprintf(`{"lower": [%q]}`, layer))
			return start(c, cmd)
		}
		before := len(images(c))
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		builder := build(ctx)
		harness.Eventually(t, harness.Patience, func() error { return someBuilt(c) })
		cancel()
		<-builder.done
		if n := len(images(c)); n != before {
			t.Errorf("there are %d images, and were %d", n, before)
		}
		// The next one takes over what it has left.
		if err := os.Truncate(large, 4096); err != nil {
			t.Fatal(err)
		}
		again := build(t.Context())
		if <-again.done; again.err != nil {
			t.Errorf("building again: %v", again.err)
		}
		if n := len(images(c)); n != before+1 {
			t.Errorf("there are %d images, and were %d", n, before)
		}
		if left, _ := filepath.Glob(filepath.Join(c.LayersDir(), "*.building")); len(left) > 0 {
			t.Errorf("left: %s", left)
		}
	})
	t.Run("shim", func(t *testing.T) {
		c.CheckLeaks(t)
		forgetImages(t, c)
		task := c.Container(t, stubborn()).Create(t, harness.IO{})
		killProgram(t, c, "containerd-shim-hyper")
		checkCleaned(t, task)
		if r := c.Run(t, harness.Args("echo", "good")); r.Stdout != "good\n" {
			t.Errorf("the next run: %+v", r)
		}
		awaitImage(t, c)
		if r := c.Run(t, harness.Sh(rootType)); r.Stdout != byDisk {
			t.Errorf("and after it: %+v", r)
		}
	})
}

// exitOf is a command that runs, and then how it ended.
type exitOf struct {
	cmd  *exec.Cmd
	done chan struct{}
	err  error // after done
}

// start runs a command in the background.
func start(c *harness.Cell, cmd *exec.Cmd) *exitOf {
	e := &exitOf{cmd: cmd, done: make(chan struct{})}
	go func() {
		defer close(e.done)
		e.err = c.RunCommand(cmd)
	}()
	return e
}

// someBuilt is nil when a builder is at its work.
func someBuilt(c *harness.Cell) error {
	building, _ := filepath.Glob(filepath.Join(c.LayersDir(), "*.building"))
	for _, path := range building {
		if info, err := os.Stat(path); err == nil && info.Size() > 1<<20 {
			return nil
		}
	}
	return errors.New("no image is being built")
}

// testRootDiskNoBuilder has layers of which no image can be made.
func testRootDiskNoBuilder(t *testing.T, c *harness.Cell) {
	forgetImages(t, c)
	defer forgetImages(t, c) // that it failed is remembered for ten minutes
	rootfsBy(t, c, "auto", "layers_mib = 1")
	for range 2 {
		if r := c.Run(t, harness.Sh(rootType)); r.Stdout != byShare {
			t.Errorf("%+v", r)
		}
		harness.Eventually(t, harness.Patience, func() error {
			if failed, _ := filepath.Glob(filepath.Join(c.LayersDir(), "*.failed")); len(failed) != 1 {
				return fmt.Errorf("that it failed is written in %s", failed)
			}
			return nil
		})
	}
	if n := len(images(c)); n != 0 {
		t.Errorf("there are %d images", n)
	}
}
