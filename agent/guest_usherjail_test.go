package agent

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	agentv1 "github.com/hyperhq/hyper/proto/hyper/agent/v1"
)

// TestGuestContainersAlike has the usher and libcontainer make containers of the same
// configuration, and compares all that the kernel tells of them.
func TestGuestContainersAlike(t *testing.T) {
	// Who has made a container is to be read in the agent's log only.
	t.Setenv("HYPER_TEST_KERNEL_ARGS", os.Getenv("HYPER_TEST_KERNEL_ARGS")+" hyper.log=debug")
	inEachGuest(t, func(t *testing.T, g *testGuest) {
		g.makeHostileRoots(t)
		guests := g.namespaces(t)
		g.sleeper(t, "janitor", func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/roots", Type: "bind", Source: "/ctr", Options: []string{"rbind"}},
				specs.Mount{Destination: "/tmp", Type: "bind", Source: "/tmp", Options: []string{"rbind"}})
		})
		for _, c := range alikeCases() {
			t.Run(c.name, func(t *testing.T) { g.makeAlike(t, c, guests) })
		}
	})
}

// alikeCase is a container that both make.
type alikeCase struct {
	name   string
	change func(*specs.Spec)
	// unusual ones are left to libcontainer.
	unusual bool
}

// whatIsHere prints what a container is: what its process is, and what is around it. What
// differs from one container to the next is for withoutNumbers to leave out.
const whatIsHere = whatAmI + `
	echo mounts; cat /proc/self/mountinfo
	echo devices; for f in /dev/* /dev/*/*; do [ -e $f -o -L $f ] && stat -c '%N %F %u %g %a %t %T' $f; done
	echo names $(hostname) $(cat /proc/sys/kernel/domainname)
	echo sysctls; cd /proc/sys; cat kernel/msgmax kernel/shmmax fs/mqueue/msg_max net/ipv4/ip_unprivileged_port_start net/ipv4/conf/all/forwarding
	echo links; ls /sys/class/net; cat /sys/class/net/lo/flags
	echo keys; awk '/_ses[.]alike/ {print $5, $6, $7, $8, $9}' /proc/keys
	echo cgroup; cd /sys/fs/cgroup && cat memory.max pids.max cpu.max cpu.weight 2>&1
	echo files; for f in /vol /vol/* /made /made/* /made/*/* /file /small /run /tmp /tmp/hostile*/made; do [ -e $f ] && stat -c '%N %F %u %g %a' $f; done
	cat /dev/null; true`

func alikeCases() []alikeCase {
	bind := func(source, target string, options ...string) specs.Mount {
		return specs.Mount{Destination: target, Type: "bind", Source: source, Options: append([]string{"bind"}, options...)}
	}
	tmpfs := func(target string, options ...string) specs.Mount {
		return specs.Mount{Destination: target, Type: "tmpfs", Source: "tmpfs", Options: options}
	}
	with := func(mounts ...specs.Mount) func(*specs.Spec) {
		return func(s *specs.Spec) { s.Mounts = append(s.Mounts, mounts...) }
	}
	return slices.Concat([]alikeCase{
		{name: "as of ctr", change: func(*specs.Spec) {}},
		{name: "as of CRI", change: likeCRI},
		{name: "nothing masked", change: func(s *specs.Spec) { s.Linux.MaskedPaths, s.Linux.ReadonlyPaths = nil, nil }},
		{name: "much masked", change: func(s *specs.Spec) {
			s.Linux.MaskedPaths = []string{"/bin", "/proc/kcore", "/etc/passwd", "/nowhere", "/vol", "/vol/", "/sys/firmware", "/etc/group"}
			s.Linux.ReadonlyPaths = []string{"/etc", "/run", "/nowhere", "/dev/shm", "/etc/group"}
			s.Process.Args[0] = "/bin/sh"
			s.Linux.MaskedPaths = s.Linux.MaskedPaths[1:]
		}},
		{name: "read-only root", change: func(s *specs.Spec) { s.Root.Readonly = true }},
		{name: "all capabilities", change: func(s *specs.Spec) {
			s.Process.Capabilities, s.Process.NoNewPrivileges = allCapabilities(), false
		}},
		{name: "no capabilities", change: func(s *specs.Spec) { s.Process.Capabilities = &specs.LinuxCapabilities{} }},
		{name: "a user", change: likeUser},
		{name: "no home, no name", change: func(s *specs.Spec) {
			s.Process.User = specs.User{UID: 4321, GID: 7}
			s.Process.Env = []string{"PATH=/nowhere:/bin", "A=1", "A=2", "HOME="}
		}},
		{name: "a directory that is made", change: func(s *specs.Spec) { s.Process.Cwd = "/run/a/b" }},
		{name: "tmpfs", change: with(tmpfs("/small", "size=1024k", "mode=1770"), tmpfs("/vol"), tmpfs("/made/tmpfs", "ro", "nosuid", "mode=711"), tmpfs("/root", "noexec", "uid=5"))},
		{name: "mounts in mounts", change: with(tmpfs("/vol"), bind("/tmp", "/vol/a/b", "rbind", "rw"), tmpfs("/vol/a/b/hostile/inner", "size=4k", "mode=755"), bind(guestRootfs+"/etc/group", "/vol/c/file", "ro"))},
		{name: "binds", change: with(
			bind(guestRootfs+"/etc/group", "/made/group", "ro"), bind(guestRootfs+"/etc/passwd", "/etc/passwd"), bind("/tmp", "/vol/", "ro", "nosuid", "nodev", "noexec"),
			bind("/run", "/made/run", "rw"), bind("/run", "/made/run2", "rbind", "ro", "noatime"), bind("/proc/irq", "/made/irq", "ro", "nosuid"))},
		{name: "times of access", change: with(bind("/tmp", "/made/1", "noatime"), bind("/tmp", "/made/2", "strictatime"), bind("/tmp", "/made/3", "nodiratime"),
			bind("/tmp", "/made/4", "relatime", "noatime"), bind("/tmp", "/made/5", "nosymfollow"), tmpfs("/made/6", "noatime", "nodiratime", "sync", "mode=755"), tmpfs("/made/7", "strictatime", "lazytime", "mode=755"))},
		{name: "propagation", change: with(bind("/tmp", "/made/1", "rbind", "rslave"), bind("/tmp", "/made/2", "rbind", "rshared"), bind("/tmp", "/made/3", "shared"),
			bind("/tmp", "/made/4", "rprivate"), bind("/run", "/made/5", "rbind", "ro", "slave"), tmpfs("/made/6", "rshared", "mode=755"))},
		{name: "shared root", unusual: true, change: func(s *specs.Spec) { s.Linux.RootfsPropagation = "rshared"; with(bind("/tmp", "/vol", "rbind"))(s) }},
		{name: "slave root", change: func(s *specs.Spec) {
			s.Linux.RootfsPropagation = "rslave"
			with(bind("/tmp", "/vol", "rbind", "rslave"))(s)
		}},
		{name: "private root", change: func(s *specs.Spec) { s.Linux.RootfsPropagation = "private" }},
		{name: "its own dev", change: func(s *specs.Spec) {
			s.Mounts = append(slices.DeleteFunc(s.Mounts, func(m specs.Mount) bool { return strings.HasPrefix(m.Destination, "/dev") }), bind("/dev", "/dev", "rbind", "rprivate"))
			s.Linux.MaskedPaths = nil
		}},
		{name: "read-only dev", change: func(s *specs.Spec) {
			s.Mounts[1].Options = append(s.Mounts[1].Options, "ro")
		}},
		{name: "sysctls", change: func(s *specs.Spec) {
			s.Linux.Sysctl = map[string]string{
				"kernel.msgmax": "12345", "kernel.shmmax": "1000000", "fs.mqueue.msg_max": "12", "kernel.domainname": "domain",
				"net.ipv4.ip_unprivileged_port_start": "81", "net/ipv4/conf/all/forwarding": "1",
			}
		}},
		{name: "names", change: func(s *specs.Spec) { s.Hostname, s.Domainname = "some", "where" }},
		{name: "the guest's namespaces", change: func(s *specs.Spec) {
			s.Linux.Namespaces, s.Hostname = []specs.LinuxNamespace{{Type: specs.MountNamespace}}, ""
		}},
		{name: "another's processes", change: func(s *specs.Spec) { s.Linux.Namespaces[0].Path = "container:janitor" }},
		{name: "limits of a cgroup", change: func(s *specs.Spec) {
			s.Linux.Resources.Memory = &specs.LinuxMemory{Limit: new(int64(64 << 20))}
			s.Linux.Resources.Pids = &specs.LinuxPids{Limit: new(int64(77))}
			s.Linux.Resources.CPU = &specs.LinuxCPU{Quota: new(int64(20000)), Period: new(uint64(100000)), Shares: new(uint64(2048))}
		}},
		{name: "a cgroup to write to", change: func(s *specs.Spec) {
			for i, m := range s.Mounts {
				if m.Type == "cgroup" {
					s.Mounts[i].Options = []string{"nosuid", "noexec", "nodev", "relatime", "rw"}
				}
			}
		}},
		{name: "devices", change: func(s *specs.Spec) {
			mode, uid := os.FileMode(0o640), uint32(12)
			s.Linux.Devices = []specs.LinuxDevice{
				{Path: "/dev/fuse", Type: "c", Major: 10, Minor: 229, FileMode: &mode, UID: &uid, GID: &uid},
				{Path: "/dev/block/deep/one", Type: "b", Major: 7, Minor: 300},
				{Path: "/dev/block/deep/two", Type: "b", Major: 259, Minor: 70000},
				{Path: "/made/fifo", Type: "p"},
				{Path: "/dev/zero", Type: "c", Major: 1, Minor: 5, FileMode: &mode},
			}
		}},
		{name: "parts that only libcontainer knows", unusual: true, change: with(bind("/tmp", "/vol", "rbind", "rro"))},
		{name: "nothing but a root", change: func(s *specs.Spec) { s.Mounts = s.Mounts[:1]; s.Linux.MaskedPaths, s.Linux.ReadonlyPaths = nil, nil }},
	}, failingCases(bind), hostileCases(bind, tmpfs))
}

// failingCases are those that cannot be made, or not be started.
func failingCases(bind func(string, string, ...string) specs.Mount) []alikeCase {
	program := func(args ...string) func(*specs.Spec) { return func(s *specs.Spec) { s.Process.Args = args } }
	return []alikeCase{
		{name: "no program", change: program("no-such-command"), unusual: true},
		{name: "no program at a path", change: program("/bin/no-such-command"), unusual: true},
		{name: "a program that is none", change: program("/etc/passwd"), unusual: true},
		{name: "a directory for a program", change: program("/bin"), unusual: true},
		{name: "a program that the kernel does not take", change: program("/tmp/odd")},
		{name: "a program without its interpreter", change: program("/tmp/orphan")},
		{name: "no directory to be in", unusual: true, change: func(s *specs.Spec) { s.Process.Cwd = "/etc/passwd/x" }},
		{name: "nothing to bind", unusual: true, change: func(s *specs.Spec) { s.Mounts = append(s.Mounts, bind("/nowhere", "/vol")) }},
		{name: "a file on a directory", unusual: true, change: func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, bind(guestRootfs+"/etc/group", "/vol"))
		}},
		{name: "no PATH", unusual: true, change: func(s *specs.Spec) { s.Process.Env = nil }},
	}
}

// hostileCases have root file systems whose maker wants more than to be run.
func hostileCases(bind func(string, string, ...string) specs.Mount, tmpfs func(string, ...string) specs.Mount) []alikeCase {
	root := func(name string, mounts ...specs.Mount) func(*specs.Spec) {
		return func(s *specs.Spec) {
			s.Root.Path = "/tmp/hostile/" + name
			s.Mounts = append(s.Mounts, mounts...)
		}
	}
	return []alikeCase{
		{name: "links that are meant well", change: root("links", bind(guestRootfs+"/etc/group", "/etc/resolv.conf", "ro"), tmpfs("/var/run/deep/x", "mode=755"), bind("/tmp", "/var/lock", "ro"))},
		{name: "links out of it", change: root("out", bind(guestRootfs+"/etc/group", "/etc/resolv.conf", "ro"), tmpfs("/var/run"), tmpfs("/abs/new", "mode=755"))},
		{name: "/dev is /proc", unusual: true, change: root("dev")},
		{name: "/proc is a link", unusual: true, change: root("proc")},
		{name: "/sys is a link", unusual: true, change: root("sys")},
		{name: "a target in /proc", unusual: true, change: root("inproc", tmpfs("/vol"))},
		{name: "a target that is the root", unusual: true, change: root("top", tmpfs("/vol"))},
		{name: "a link to nothing", unusual: true, change: root("dangling", tmpfs("/vol"))},
		{name: "a file's target is a link to nothing", unusual: true, change: root("dangling", bind(guestRootfs+"/etc/group", "/vol"))},
		{name: "a loop of links", unusual: true, change: root("loop", tmpfs("/vol"))},
		{name: "/dev/null is a file", change: root("null")},
		{name: "a link to a descriptor", unusual: true, change: root("magic", tmpfs("/vol"))},
	}
}

// makeHostileRoots makes root file systems below the guest's /tmp/hostile, and programs
// in that of the other tests that are none.
func (g *testGuest) makeHostileRoots(t *testing.T) {
	t.Helper()
	spec := testSpec("hostile", "sh", "-ec", `
		printf '\0odd' >/tmp/odd; printf '#!/no/shell\n' >/tmp/orphan; chmod 755 /tmp/odd /tmp/orphan
		cd /vol; mkdir -p hostile made; cd hostile
		for root in links out dev proc sys inproc top dangling loop null magic; do
			mkdir -p $root/bin $root/etc; cp /bin/busybox $root/bin/
			for applet in sh cat id pwd tr grep wc ls readlink stat awk echo hostname; do ln -s busybox $root/bin/$applet; done
		done
		mkdir -p links/run links/var links/etc links/lib/resolv; ln -s /run links/var/run; ln -s ../lib/./lock links/var/lock; mkdir links/lib/lock
		: >links/lib/resolv/conf; ln -s ../lib/resolv/conf links/etc/resolv.conf
		mkdir -p out/var out/etc out/run out/x; : >out/x/y; ln -s ../../../../../../x/y out/etc/resolv.conf; ln -s ../../../../run out/var/run; ln -s /x out/abs
		ln -s /proc dev/dev; mkdir dev/proc
		mkdir proc/elsewhere; ln -s elsewhere proc/proc
		mkdir sys/elsewhere; ln -s elsewhere sys/sys
		mkdir -p inproc/proc/x; ln -s /proc/x inproc/vol
		ln -s / top/vol
		ln -s /nothing/there dangling/vol
		ln -s vol loop/vol
		mkdir null/dev; : >null/dev/null
		ln -s /proc/self/fd/3 magic/vol
		chmod -R go+rX .`)
	spec.Mounts = append(spec.Mounts, specs.Mount{Destination: "/vol", Type: "bind", Source: "/tmp", Options: []string{"rbind", "rw"}})
	if exit, out, errs := g.run(t, "hostile", spec); exit.GetStatus() != 0 {
		t.Fatalf("making root file systems: %d %s%s", exit.GetStatus(), out, errs)
	}
}

// likeCRI makes of a configuration one of a pod's container, as kubelet and containerd have
// it and the host plans it.
func likeCRI(s *specs.Spec) {
	bind := func(source, target string, options ...string) specs.Mount {
		return specs.Mount{Destination: target, Type: "bind", Source: source, Options: options}
	}
	s.Hostname = ""
	s.Linux.Namespaces = []specs.LinuxNamespace{{Type: "pid"}, {Type: "mount"}, {Type: "cgroup"}}
	s.Mounts = append(slices.DeleteFunc(s.Mounts, func(m specs.Mount) bool { return m.Destination == "/dev/shm" || m.Destination == "/run" }),
		bind(guestRootfs+"/etc/group", "/etc/hosts", "rbind", "rprivate", "rw"),
		bind(guestRootfs+"/etc/group", "/dev/termination-log", "rbind", "rprivate", "rw"),
		bind(guestRootfs+"/etc/passwd", "/etc/hostname", "rbind", "rprivate", "ro"),
		bind(guestRootfs+"/etc/group", "/etc/resolv.conf", "rbind", "rprivate", "rw"),
		bind("/dev/shm", "/dev/shm", "rbind", "rprivate", "rw"),
		bind("/tmp", "/var/run/secrets/kubernetes.io/serviceaccount", "rbind", "rprivate", "ro"),
	)
	s.Linux.MaskedPaths = []string{"/proc/asound", "/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats",
		"/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap"}
	score := 968
	s.Process.OOMScoreAdj = &score
	s.Process.NoNewPrivileges = false
	s.Linux.Resources.CPU = &specs.LinuxCPU{Shares: new(uint64(2)), Period: new(uint64(100000))}
}

func likeUser(s *specs.Spec) {
	umask, score := uint32(0o27), 321
	names := []string{"CAP_NET_RAW", "CAP_CHOWN"}
	s.Process.User = specs.User{UID: 1000, GID: 1000, AdditionalGids: []uint32{5, 1234, 1235}, Umask: &umask}
	s.Process.OOMScoreAdj = &score
	s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: names, Permitted: names, Effective: names, Inheritable: names, Ambient: names}
	s.Process.Rlimits = []specs.POSIXRlimit{
		{Type: "RLIMIT_NOFILE", Soft: 77, Hard: 99}, {Type: "RLIMIT_CORE", Soft: 0, Hard: 0}, {Type: "RLIMIT_NPROC", Soft: 500, Hard: 501},
	}
	s.Process.Cwd, s.Process.Env = "/vol", []string{"PATH=/bin", "B=c"}
}

// namespaces are the guest's own, by their names in /proc.
func (g *testGuest) namespaces(t *testing.T) map[string]bool {
	t.Helper()
	exit, out, errs := g.run(t, "guests", rootSpec("guests", "sh", "-c", "for ns in mnt pid net ipc uts cgroup user time; do readlink /proc/1/ns/$ns; done"))
	names := map[string]bool{}
	for name := range strings.FieldsSeq(out) {
		names[name] = true
	}
	if exit.GetStatus() != 0 || len(names) != 8 {
		t.Fatalf("the guest's namespaces: %d %q %s", exit.GetStatus(), out, errs)
	}
	return names
}

// makeAlike has both make a container, and compares.
func (g *testGuest) makeAlike(t *testing.T, c alikeCase, guests map[string]bool) {
	spec := func() *specs.Spec {
		s := testSpec("alike", "sh", "-c", whatIsHere)
		c.change(s)
		return s
	}
	theirs := spec()
	leaveToLibcontainer(theirs)
	g.clean(t)
	want := withoutNumbers(g.attempt(t, theirs), guests)
	g.clean(t)
	before := len(g.log(t))
	got := withoutNumbers(g.attempt(t, spec()), guests)
	if left := strings.Contains(g.log(t)[before:], "container alike is left to libcontainer"); left != c.unusual {
		t.Errorf("left to libcontainer: %v", left)
	}
	if got != want {
		t.Errorf("the usher's:\n%s\nlibcontainer's:\n%s\n%s", got, want, firstDifference(got, want))
	}
	if strings.Contains(want, "mounts") && strings.Count(got, "\n") < 60 {
		t.Errorf("it tells little:\n%s", got)
	}
}

// attempt is all that a container comes to.
func (g *testGuest) attempt(t *testing.T, spec *specs.Spec) string {
	t.Helper()
	s := g.open(t, "oe")
	if err := g.create(t, "alike", spec, s); err != nil {
		return "creating: " + err.Error()
	}
	defer g.delete(t, "alike")
	ref := &agentv1.ProcessRef{ContainerId: "alike"}
	out, errs := readAll(s.stdout), readAll(s.stderr)
	if _, err := g.api.StartProcess(testCtx(t), ref); err != nil {
		return "starting: " + err.Error()
	}
	exit, err := g.api.WaitProcess(testCtx(t), ref)
	if err != nil {
		return "waiting: " + err.Error()
	}
	return fmt.Sprintf("%s\nexit %d\nerrors %s", <-out, exit.GetStatus(), <-errs)
}

// clean removes what containers have had to make in their root file systems.
func (g *testGuest) clean(t *testing.T) {
	t.Helper()
	exit, out := g.exec(t, "janitor", "clean", execSpec("sh", "-c", `cd /roots/rootfs && rm -rf made vol/* var file small || exit
		cd /tmp/hostile && rm -rf inner dangling/nothing out/x/new links/run/* && chmod 755 /roots/rootfs/vol`))
	if exit.GetStatus() != 0 {
		t.Fatalf("cleaning: %d %s", exit.GetStatus(), out)
	}
}

// log is what the agent has logged.
func (g *testGuest) log(t *testing.T) string {
	t.Helper()
	log, err := os.ReadFile(g.console)
	if err != nil || !strings.Contains(string(log), "hyper-agent:") {
		t.Fatalf("the guest's log: %v", err)
	}
	return string(log)
}

var (
	mountLine   = regexp.MustCompile(`(?m)^(\d+) (\d+) (\d+:\d+) (.*)$`)
	groupNumber = regexp.MustCompile(`\b(shared|master|propagate_from):(\d+)`)
	namespace   = regexp.MustCompile(`\b\w+:\[\d+\]`)
)

// withoutNumbers leaves the numbers out that a container has for itself, and says instead which
// of them are the same.
func withoutNumbers(text string, guests map[string]bool) string {
	text = namespace.ReplaceAllStringFunc(text, func(name string) string {
		kind, _, _ := strings.Cut(name, ":")
		if guests[name] {
			return "the guest's " + kind
		}
		return "its own " + kind
	})
	ids, devices, groups := numbering{}, numbering{"0:0": 0}, numbering{}
	text = mountLine.ReplaceAllStringFunc(text, func(line string) string {
		m := mountLine.FindStringSubmatch(line)
		return fmt.Sprintf("mount %s in %s of %s %s", ids.of(m[1]), ids.of(m[2]), devices.of(m[3]), m[4])
	})
	return groupNumber.ReplaceAllStringFunc(text, func(s string) string {
		m := groupNumber.FindStringSubmatch(s)
		return m[1] + ":" + groups.of(m[2])
	})
}

// numbering numbers names in the order in which they come.
type numbering map[string]int

func (n numbering) of(name string) string {
	if _, ok := n[name]; !ok {
		n[name] = len(n)
	}
	return fmt.Sprint(n[name])
}

func firstDifference(a, b string) string {
	left, right := strings.Split(a, "\n"), strings.Split(b, "\n")
	for i := range min(len(left), len(right)) {
		if left[i] != right[i] {
			return fmt.Sprintf("first at line %d: %q, and %q", i, left[i], right[i])
		}
	}
	return fmt.Sprintf("%d lines, and %d", len(left), len(right))
}
