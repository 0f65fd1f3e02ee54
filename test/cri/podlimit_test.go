package cri

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/hyperhq/hyper/test/harness"
)

// testPodLimit has a pod in a cgroup as kubelet makes it, with a limit of what its
// containers may use and of the RuntimeClass's overhead. Whatever they do, it is their own
// limits that end them: the machine is never killed.
func testPodLimit(t *testing.T, n *node) {
	const each, mib = 256, 2 * 256
	overhead := documentedOverhead(t)
	parent := "/" + n.cell.Namespace + "/limited"
	group := limitedGroup(t, parent, mib+overhead)
	p := n.pod(t, func(c *runtimeapi.PodSandboxConfig) {
		c.Linux.CgroupParent = parent
		c.Linux.Resources, c.Linux.Overhead = memoryResources(mib), memoryResources(int64(overhead))
	})
	limited := func(c *runtimeapi.ContainerConfig) { c.Stdin, c.Linux.Resources = true, memoryResources(each) }
	c := p.sleeper(t, limited)
	// By a program that wants more, by files, and by what the machine has to translate.
	if r, err := c.tryExec(t, patience/2, "probe", "allocate", "400"); err != nil || r.ExitCode != 137 {
		t.Errorf("a command that uses more than the limit: %v, %v", r, err)
	}
	c.sh(t, "dd if=/dev/zero of=/root/large bs=1M count=50 2>/dev/null; cat /root/large >/dev/null; rm /root/large")
	c.sh(t, "for run in md5sum sha256sum sha512sum gzip bzip2 sort rev base64; do head -c 100000 /bin/busybox | $run >/dev/null; done")
	c.stop(t, 0)
	c.remove(t)
	// By two that have nearly all they may.
	for range mib / each {
		c := p.run(t, []string{"probe", "allocate", "230"}, limited)
		c.await(t, "allocated 230")
		if got := c.exec(t, "echo", "alive"); got != "alive" {
			t.Errorf("a container that has nearly all it may says %q", got)
		}
	}
	t.Logf("of %d MiB for containers of %d the pod had %d at most", mib+overhead, mib, group.peak(t)>>20)
	if len(n.cell.Program("qemu-system")) != 1 {
		t.Error("the machine is gone")
	}
	if killed := group.kills(t); killed != 0 {
		t.Errorf("%d processes of the pod were killed on the node", killed)
	}
}

// documentedOverhead is what the RuntimeClass in the documentation says, in MiB.
func documentedOverhead(t *testing.T) int {
	t.Helper()
	found := regexp.MustCompile(`(?m)^overhead: \{podFixed: \{memory: (\d+)Mi\}\}$`).FindStringSubmatch(readFile(t, "../../README.md"))
	if found == nil {
		t.Fatal("README.md has no RuntimeClass with an overhead")
	}
	if operations := readFile(t, "../../docs/operations.md"); !strings.Contains(operations, `podFixed.memory: "`+found[1]+`Mi"`) {
		t.Errorf("docs/operations.md has another overhead than README.md, %s MiB", found[1])
	}
	mib, err := strconv.Atoi(found[1])
	if err != nil {
		t.Fatal(err)
	}
	return mib
}

// group is the directory of a cgroup that counts memory, of either version.
type group string

// limitedGroup makes a cgroup with a limit in MiB that goes with the test.
func limitedGroup(t *testing.T, name string, mib int) group {
	t.Helper()
	root, file := "/sys/fs/cgroup/memory", "memory.limit_in_bytes"
	if _, err := os.Stat(root); err != nil {
		root, file = "/sys/fs/cgroup", "memory.max"
	}
	dir := filepath.Join(root, name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { removeGroups(t, name) })
	if file == "memory.max" {
		for _, above := range []string{root, filepath.Dir(dir)} {
			if err := os.WriteFile(filepath.Join(above, "cgroup.subtree_control"), []byte("+memory"), 0); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := os.WriteFile(filepath.Join(dir, file), []byte(strconv.Itoa(mib<<20)), 0); err != nil {
		t.Fatal(err)
	}
	return group(dir)
}

// removeGroups removes a cgroup from every hierarchy, once nobody is in it any more: a
// pod's parent is nobody's to remove but kubelet's.
func removeGroups(t *testing.T, name string) {
	t.Helper()
	dirs, err := filepath.Glob("/sys/fs/cgroup/*" + name)
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range append(dirs, "/sys/fs/cgroup"+name) {
		harness.Eventually(t, patience/4, func() error {
			if err := os.Remove(dir); !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			return nil
		})
	}
}

// number is what a file of the group says, or what a line of it says of a key.
func (g group) number(t *testing.T, file, key string) uint64 {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(string(g), file))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		value, ok := strings.CutPrefix(line, key)
		if !ok {
			continue
		}
		n, err := strconv.ParseUint(strings.TrimSpace(value), 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	t.Fatalf("%s has no %q: %s", file, key, data)
	return 0
}

// peak is the most memory that the group has had, as far as the kernel tells.
func (g group) peak(t *testing.T) uint64 {
	t.Helper()
	for _, file := range []string{"memory.max_usage_in_bytes", "memory.peak"} {
		if _, err := os.Stat(filepath.Join(string(g), file)); err == nil {
			return g.number(t, file, "")
		}
	}
	return g.number(t, "memory.current", "")
}

// kills is how many processes in the group were killed for want of memory.
func (g group) kills(t *testing.T) (killed uint64) {
	t.Helper()
	file := "memory.events"
	if _, err := os.Stat(filepath.Join(string(g), file)); err != nil {
		file = "memory.oom_control"
	}
	err := filepath.WalkDir(string(g), func(dir string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() {
			killed += group(dir).number(t, file, "oom_kill ")
		}
		return err
	})
	if err != nil {
		t.Fatal(fmt.Errorf("looking for processes that were killed: %w", err))
	}
	return killed
}
