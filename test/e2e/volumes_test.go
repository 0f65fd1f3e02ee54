package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hyperhq/hyper/test/harness"
)

// kubeVolume is a directory that changes as those of kubelet do.
type kubeVolume struct {
	t     *testing.T
	dir   string
	round int
}

func newKubeVolume(t *testing.T, c *harness.Cell, files map[string]string) *kubeVolume {
	t.Helper()
	v := &kubeVolume{t: t, dir: filepath.Join(hostDir(t, c, nil), "pod", "volumes", "kubernetes.io~configmap", "cfg")}
	if err := os.MkdirAll(v.dir, 0o777); err != nil {
		t.Fatal(err)
	}
	// As fsGroup makes it.
	if err := errors.Join(os.Chown(v.dir, 0, 3000), os.Chmod(v.dir, 0o777|os.ModeSetgid)); err != nil {
		t.Fatal(err)
	}
	v.write(files)
	return v
}

// write exchanges the volume's content.
func (v *kubeVolume) write(files map[string]string) {
	v.t.Helper()
	old, _ := os.Readlink(filepath.Join(v.dir, "..data"))
	v.round++
	stamp := fmt.Sprintf("..2026_01_01_00_00_%02d", v.round)
	var errs []error
	errs = append(errs, os.Mkdir(filepath.Join(v.dir, stamp), 0o755), os.Chown(filepath.Join(v.dir, stamp), 0, 3000))
	for name, text := range files {
		path := filepath.Join(v.dir, stamp, name)
		errs = append(errs, os.WriteFile(path, []byte(text), 0o750), os.Chown(path, 0, 3000), os.Chmod(path, 0o750))
	}
	tmp := filepath.Join(v.dir, "..data_tmp")
	errs = append(errs, os.Symlink(stamp, tmp), os.Rename(tmp, filepath.Join(v.dir, "..data")))
	for name := range files {
		if err := os.Symlink(filepath.Join("..data", name), filepath.Join(v.dir, name)); !errors.Is(err, os.ErrExist) {
			errs = append(errs, err)
		}
	}
	if old != "" {
		errs = append(errs, os.RemoveAll(filepath.Join(v.dir, old)))
	}
	if err := errors.Join(errs...); err != nil {
		v.t.Fatal(err)
	}
}

func (v *kubeVolume) mount(at string) harness.Option {
	return harness.Mount("bind", v.dir, at, "rbind", "rprivate", "ro")
}

// watching has a program in the container print the events of a directory.
func watching(t *testing.T, task *harness.Task, dir string) *harness.Task {
	t.Helper()
	watcher := task.Exec(t, harness.Command{Args: []string{"probe", "watch", dir}}, harness.IO{})
	watcher.Start(t)
	watcher.Expect(t, "watching\n")
	return watcher
}

// testChangedVolume changes a volume as kubelet does, under a program that waits
// for that by inotify.
func testChangedVolume(t *testing.T, c *harness.Cell) {
	v := newKubeVolume(t, c, map[string]string{"key": "one\n", "gone": "x\n", "run": "#!/bin/sh\nexec sleep 100000\n"})
	// Its command is in the volume, as many scripts are.
	task := running(t, c, v.mount("/etc/cfg"), harness.Args("/etc/cfg/run"))
	checkScripts(t, task, []struct{ what, script, want string }{
		{"content", "cat /etc/cfg/key", "one\n"},
		{"attributes", "stat -c '%a %u:%g' /etc/cfg /etc/cfg/..data/. && stat -Lc '%a %u:%g %s' /etc/cfg/key", "2777 0:3000\n2755 0:3000\n750 0:3000 4\n"},
		{"read-only", "touch /etc/cfg/new 2>/dev/null || echo no", "no\n"},
	})
	watcher := watching(t, task, "/etc/cfg")
	for round, text := range []string{"two\n", "three\n"} {
		v.write(map[string]string{"key": text, "new": "y\n"})
		changed := time.Now()
		harness.Eventually(t, 10*time.Second, func() error {
			if n := strings.Count(watcher.Output(), "moved ..data\n"); n != round+1 {
				return fmt.Errorf("%d exchanges were seen: %q", n, watcher.Output())
			}
			return nil
		})
		t.Logf("the guest saw change %d after %v", round+1, time.Since(changed))
		if r := task.Shell(t, "cat /etc/cfg/key /etc/cfg/new"); r.Stdout != text+"y\n" {
			t.Errorf("after change %d the container reads %+v", round+1, r)
		}
	}
	// The old directory goes last.
	watcher.Expect(t, "deleted ..2026_01_01_00_00_02\n")
	if r := task.Shell(t, "ls -A /etc/cfg | sort | tr '\\n' ' '"); r.Stdout != "..2026_01_01_00_00_03 ..data gone key new run " {
		t.Errorf("the container lists %+v", r)
	}
}

// testManyFiles has more files in a volume than anybody watches one by one.
func testManyFiles(t *testing.T, c *harness.Cell) {
	const count = 2000
	files := map[string]string{"large": strings.Repeat("0123456789abcdef", 200_000)}
	for i := range count {
		files[fmt.Sprintf("file%d", i)] = "first\n"
	}
	v := newKubeVolume(t, c, files)
	task := running(t, c, v.mount("/cfg"))
	const look = "cat /cfg/file* | sort | uniq -c | xargs; wc -c < /cfg/large"
	if r := task.Shell(t, look); r.Stdout != fmt.Sprintf("%d first\n3200000\n", count) {
		t.Errorf("at first: %+v", r)
	}
	for name := range files {
		if name != "large" {
			files[name] = "second\n"
		}
	}
	watcher := watching(t, task, "/cfg")
	v.write(files)
	begun := time.Now()
	watcher.Expect(t, "moved ..data\n")
	t.Logf("%d files had changed after %v", count, time.Since(begun))
	if r := task.Shell(t, look); r.Stdout != fmt.Sprintf("%d second\n3200000\n", count) {
		t.Errorf("after the change: %+v", r)
	}
}
