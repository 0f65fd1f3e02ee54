package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hyperhq/hyper/test/harness"
)

func mountVolume(v *harness.KubeVolume, at string) harness.Option {
	return harness.Mount("bind", v.Dir, at, "rbind", "rprivate", "ro")
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
	v := c.NewKubeVolume(t, map[string]string{"key": "one\n", "gone": "x\n", "run": "#!/bin/sh\nexec sleep 100000\n"})
	// Its command is in the volume, as many scripts are.
	task := running(t, c, mountVolume(v, "/etc/cfg"), harness.Args("/etc/cfg/run"))
	checkScripts(t, task, []struct{ what, script, want string }{
		{"content", "cat /etc/cfg/key", "one\n"},
		{"attributes", "stat -c '%a %u:%g' /etc/cfg /etc/cfg/..data/. && stat -Lc '%a %u:%g %s' /etc/cfg/key", "2777 0:3000\n2755 0:3000\n750 0:3000 4\n"},
		{"read-only", "touch /etc/cfg/new 2>/dev/null || echo no", "no\n"},
	})
	watcher := watching(t, task, "/etc/cfg")
	for round, text := range []string{"two\n", "three\n"} {
		v.Write(map[string]string{"key": text, "new": "y\n"})
		changed := time.Now()
		harness.Eventually(t, harness.Soon, func() error {
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
	v := c.NewKubeVolume(t, files)
	task := running(t, c, mountVolume(v, "/cfg"))
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
	v.Write(files)
	begun := time.Now()
	watcher.Expect(t, "moved ..data\n")
	t.Logf("%d files had changed after %v", count, time.Since(begun))
	if r := task.Shell(t, look); r.Stdout != fmt.Sprintf("%d second\n3200000\n", count) {
		t.Errorf("after the change: %+v", r)
	}
}
