package harness

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
)

// Snapshot is what there is on the host, as words for a person, that could be
// left behind by a container: processes below this one, mounts, sockets,
// network links and namespaces, cgroups, loop devices, files.
type Snapshot map[string]bool

// Snapshot takes one of this cell.
func (c *Cell) Snapshot() Snapshot {
	s := Snapshot{}
	s.addProcesses(c)
	s.addMounts(c)
	s.addNetwork(c)
	s.addShimSockets(c)
	s.addFiles(c)
	for _, dir := range cgroupsOf(c.Namespace) {
		// The parent of all of the namespace's cgroups is nobody's to remove.
		if filepath.Base(dir) != c.Namespace {
			s["cgroup "+dir] = true
		}
	}
	loops, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	for _, loop := range loops {
		if file, err := os.ReadFile(loop); err == nil && strings.HasPrefix(string(file), c.Dir) {
			s["loop device of "+strings.TrimSpace(string(file))] = true
		}
	}
	return s
}

// Since lists what is there now and was not before.
func (s Snapshot) Since(before Snapshot) []string {
	var added []string
	for what := range s {
		if !before[what] {
			added = append(added, what)
		}
	}
	slices.Sort(added)
	return added
}

// addProcesses adds the descendants of this process that it did not start itself.
func (s Snapshot) addProcesses(c *Cell) {
	for _, p := range c.below() {
		s["process "+p.String()] = true
	}
}

// addMounts looks into this process's mount namespace, which is the host's: what
// a shim mounts in a namespace of its own ends with its processes.
func (s Snapshot) addMounts(c *Cell) {
	for _, m := range mountsBelow(c.Dir) {
		s["mount "+m] = true
	}
}

// addNetwork adds what is in the network namespace in which containerd runs.
func (s Snapshot) addNetwork(c *Cell) {
	look := func() error {
		s.addSockets(c)
		s.addLinks()
		return nil
	}
	if c.options.Host == nil {
		look()
	} else if err := c.options.Host.NetNS.Do(look); err != nil {
		s["network that could not be looked at: "+err.Error()] = true
	}
}

func (s Snapshot) addSockets(c *Cell) {
	f, err := os.Open("/proc/thread-self/net/unix")
	if err != nil {
		return
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) < 8 || !strings.Contains(fields[7], c.Dir) {
			continue
		}
		// containerd's own sockets have a line for each connection.
		if !strings.HasPrefix(fields[7], c.Dir+"/containerd.sock") {
			s["socket "+fields[7]] = true
		}
	}
}

func (s Snapshot) addShimSockets(c *Cell) {
	for _, id := range idsOf(c.Dir) {
		for _, name := range shimSockets(c.Dir, id) {
			if exists(name) {
				s["shim socket "+name+" of "+id] = true
			}
		}
	}
}

func (s Snapshot) addLinks() {
	links, err := netlink.LinkList()
	if err != nil {
		return
	}
	for _, link := range links {
		s[fmt.Sprintf("network link %s %s", link.Type(), link.Attrs().Name)] = true
	}
	namespaces, _ := filepath.Glob("/run/netns/*")
	for _, ns := range namespaces {
		s["network namespace "+ns] = true
	}
}

// addFiles adds what runtimes could leave where containerd does not look, or
// in containerd's directories of tasks.
func (s Snapshot) addFiles(c *Cell) {
	for _, pattern := range []string{
		c.Dir + "/s/*",
		c.Dir + "/tmp/*",
		c.Dir + "/fifo/*",
		c.Dir + "/state/io.containerd.runtime.v2.task/*/*",
		c.Dir + "/root/io.containerd.runtime.v2.task/*/*",
		c.Dir + "/state/io.containerd.sandbox.controller.v1.shim/*/*",
		c.Dir + "/root/io.containerd.sandbox.controller.v1.shim/*/*",
		c.Dir + "/state/*/shim*",
		c.Dir + "/run/*",
		c.Dir + "/state/io.containerd.grpc.v1.cri/*/*",
		c.Dir + "/root/io.containerd.grpc.v1.cri/*/*",
		c.Dir + "/state/netns/*",
		c.Dir + "/cni/addresses/*/[0-9]*.*",
		c.Dir + "/cni/addresses/*/*:*",
		"/var/lib/hyper/*",
		"/dev/shm/hyper*",
	} {
		files, _ := filepath.Glob(pattern)
		for _, file := range files {
			s["file "+file] = true
		}
	}
	for _, file := range cniResults(c.Dir) {
		s["file "+file] = true
	}
}
