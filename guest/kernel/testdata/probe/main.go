// Command probe is a guest's init that tells on the console what its kernel can do, and powers off.
package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func main() {
	fmt.Println("PROBE: begin")
	for _, c := range checks {
		if err := c.do(); err != nil {
			fmt.Printf("PROBE: FAIL %s: %v\n", c.name, err)
		} else {
			fmt.Printf("PROBE: ok %s\n", c.name)
		}
	}
	fmt.Println("PROBE: end")
	unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

type check struct {
	name string
	do   func() error
}

// checks run in order: the first ones mount what the others look at.
var checks = []check{
	{"proc", func() error { return unix.Mount("proc", "/proc", "proc", 0, "") }},
	{"modules", loadModules},
	{"sysfs", func() error { return unix.Mount("sysfs", "/sys", "sysfs", 0, "") }},
	{"devtmpfs", func() error { return unix.Mount("dev", "/dev", "devtmpfs", 0, "") }},
	{"cgroup2", func() error { return unix.Mount("cgroup2", "/sys/fs/cgroup", "cgroup2", 0, "") }},
	{"tmpfs", func() error { return unix.Mount("tmpfs", "/mnt", "tmpfs", 0, "") }},
	{"devpts", func() error { return mountOn("/mnt/pts", "devpts", "newinstance,ptmxmode=0666") }},
	{"mqueue", func() error { return mountOn("/mnt/mqueue", "mqueue", "") }},
	{"overlay", overlay},
	{"filesystems", func() error {
		return hasWords("/proc/filesystems", "virtiofs overlay erofs ext4 tmpfs proc sysfs devpts cgroup2 mqueue fuse")
	}},
	{"controllers", func() error {
		return hasWords("/sys/fs/cgroup/cgroup.controllers", "cpuset cpu io memory hugetlb pids")
	}},
	{"enable-controllers", func() error {
		return os.WriteFile("/sys/fs/cgroup/cgroup.subtree_control", []byte("+cpuset +cpu +io +memory +hugetlb +pids"), 0)
	}},
	{"cgroup-kill", func() error {
		if err := os.Mkdir("/sys/fs/cgroup/c", 0o755); err != nil {
			return err
		}
		return exist("/sys/fs/cgroup/c/cgroup.kill", "/sys/fs/cgroup/c/cgroup.freeze", "/sys/fs/cgroup/c/memory.swap.max",
			"/sys/fs/cgroup/c/memory.oom.group", "/sys/fs/cgroup/c/cpu.max", "/sys/fs/cgroup/c/cpuset.cpus")
	}},
	{"namespaces", func() error {
		return exist("/proc/self/ns/cgroup", "/proc/self/ns/ipc", "/proc/self/ns/mnt", "/proc/self/ns/net",
			"/proc/self/ns/pid", "/proc/self/ns/time", "/proc/self/ns/user", "/proc/self/ns/uts")
	}},
	{"seccomp", func() error { return hasWords("/proc/sys/kernel/seccomp/actions_avail", "errno allow user_notif log") }},
	{"hwrng", func() error { return hasWords("/sys/class/misc/hw_random/rng_current", "virtio_rng.0") }},
	{"virtio-port", func() error { return exist("/sys/class/virtio-ports/vport0p1", "/dev/vport0p1") }},
	{"vsock", func() error { return socket(unix.AF_VSOCK, unix.SOCK_STREAM, 0) }},
	{"packet", func() error { return socket(unix.AF_PACKET, unix.SOCK_RAW, 0) }},
	{"ipv6", func() error { return socket(unix.AF_INET6, unix.SOCK_STREAM, 0) }},
	{"vmgenid", func() error { return exist("/sys/bus/platform/drivers/vmgenid") }},
	{"acpi-pci-hotplug", func() error { return notEmpty("/sys/bus/pci/slots") }},
	// From here on: what only a kernel made for this has built in.
	{"full", func() error { return hasWords("/proc/filesystems", "xfs 9p binfmt_misc") }},
	{"netfilter", func() error { return socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_NETFILTER) }},
	{"iptables", func() error { return exist("/proc/net/ip_tables_names", "/proc/net/ip6_tables_names") }},
	{"conntrack", func() error { return exist("/proc/sys/net/netfilter/nf_conntrack_max") }},
	{"veth", func() error { return addLink(&netlink.Veth{LinkAttrs: link("v0"), PeerName: "v1"}) }},
	{"bridge", func() error { return addLink(&netlink.Bridge{LinkAttrs: link("br0")}) }},
	{"dummy", func() error { return addLink(&netlink.Dummy{LinkAttrs: link("d0")}) }},
	{"macvlan", func() error { return addLink(&netlink.Macvlan{LinkAttrs: child("m0", "v0")}) }},
	{"vlan", func() error { return addLink(&netlink.Vlan{LinkAttrs: child("vlan7", "v0"), VlanId: 7}) }},
	{"tun", func() error { return exist("/dev/net/tun") }},
	{"io_uring", func() error {
		_, _, e := unix.Syscall(unix.SYS_IO_URING_SETUP, 1, 0, 0)
		return unless(e, unix.EFAULT)
	}},
	{"userfaultfd", func() error {
		_, _, e := unix.Syscall(unix.SYS_USERFAULTFD, ^uintptr(0), 0, 0)
		return unless(e, unix.EINVAL)
	}},
	{"memfd_secret", func() error {
		_, _, e := unix.Syscall(unix.SYS_MEMFD_SECRET, ^uintptr(0), 0, 0)
		return unless(e, unix.EINVAL)
	}},
	{"fanotify", func() error { return exist("/proc/sys/fs/fanotify/max_user_groups") }},
	{"psi", func() error { return hasWords("/proc/pressure/cpu", "some") }},
	{"thp", func() error { return exist("/sys/kernel/mm/transparent_hugepage/enabled") }},
	{"memory-auto-online", func() error { return hasWords("/sys/devices/system/memory/auto_online_blocks", "online") }},
	{"config", func() error { return exist("/proc/config.gz") }},
	{"no-modules", func() error {
		if exist("/proc/modules") == nil {
			return fmt.Errorf("modules can be loaded")
		}
		return nil
	}},
}

func loadModules() error {
	list, err := os.ReadFile("/lib/modules/load")
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		return err
	}
	for name := range strings.FieldsSeq(string(list)) {
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		err = unix.FinitModule(int(f.Fd()), "", 0)
		f.Close()
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

func mountOn(dir, fstype, options string) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	return unix.Mount(fstype, dir, fstype, 0, options)
}

func overlay() error {
	for _, dir := range []string{"lower", "upper", "work"} {
		if err := os.Mkdir("/mnt/"+dir, 0o755); err != nil {
			return err
		}
	}
	return mountOn("/mnt/merged", "overlay", "lowerdir=/mnt/lower,upperdir=/mnt/upper,workdir=/mnt/work")
}

func hasWords(file, words string) error {
	content, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	there := map[string]bool{}
	for word := range strings.FieldsSeq(string(content)) {
		there[word] = true
	}
	var missing []string
	for word := range strings.FieldsSeq(words) {
		if !there[word] {
			missing = append(missing, word)
		}
	}
	if missing != nil {
		return fmt.Errorf("%s has no %s", file, strings.Join(missing, ", "))
	}
	return nil
}

func exist(files ...string) error {
	for _, file := range files {
		if _, err := os.Stat(file); err != nil {
			return err
		}
	}
	return nil
}

func notEmpty(dir string) error {
	entries, err := os.ReadDir(dir)
	if err == nil && len(entries) == 0 {
		err = fmt.Errorf("%s is empty", dir)
	}
	return err
}

func socket(domain, kind, protocol int) error {
	fd, err := unix.Socket(domain, kind, protocol)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

func link(name string) netlink.LinkAttrs {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	return attrs
}

func child(name, parent string) netlink.LinkAttrs {
	attrs := link(name)
	if p, err := netlink.LinkByName(parent); err == nil {
		attrs.ParentIndex = p.Attrs().Index
	}
	return attrs
}

func addLink(l netlink.Link) error { return netlink.LinkAdd(l) }

// unless turns the error that a system call gives to nonsense arguments into success: it exists.
func unless(got, want unix.Errno) error {
	if got == want {
		return nil
	}
	return fmt.Errorf("got %q, want %q", got.Error(), want.Error())
}
