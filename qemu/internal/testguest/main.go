//go:build linux

// Command testguest is PID 1 of the guests that the driver's tests boot. It reads
// lines from the agent's port, does what they say, and answers each with one line:
// "ok" or "error", and more.
package main

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

func main() {
	// PID 1 must not return: the kernel would panic, which is one of the commands.
	if err := serve(); err != nil {
		fmt.Println("testguest:", err)
	}
	select {}
}

func serve() error {
	for _, m := range [][2]string{{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}} {
		if err := os.MkdirAll(m[1], 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m[0], m[1], m[0], 0, ""); err != nil && err != unix.EBUSY {
			return fmt.Errorf("mount %s: %w", m[1], err)
		}
	}
	if err := loadModules(); err != nil {
		return err
	}
	port, err := openPort("hyper.agent")
	if err != nil {
		return err
	}
	lines := bufio.NewScanner(port)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		answer, err := do(strings.Fields(lines.Text()))
		if err != nil {
			answer = "error " + err.Error()
		} else {
			answer = strings.TrimSpace("ok " + answer)
		}
		if _, err := fmt.Fprintln(port, answer); err != nil {
			return err
		}
	}
	return lines.Err()
}

// loadModules loads what the image lists, in its order, as the agent would.
func loadModules() error {
	list, err := os.ReadFile("/lib/modules/load")
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		return err
	}
	for path := range strings.FieldsSeq(string(list)) {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		// ENODEV: a driver that finds nothing to drive.
		err = unix.FinitModule(int(f.Fd()), "", 0)
		f.Close()
		if err != nil && err != unix.EEXIST && err != unix.ENODEV {
			return fmt.Errorf("load %s: %w", path, err)
		}
	}
	return nil
}

// openPort opens a virtio-serial port once the host has told its name.
func openPort(name string) (port *os.File, err error) {
	err = await(func() (bool, error) {
		names, err := filepath.Glob("/sys/class/virtio-ports/*/name")
		if err != nil {
			return false, err
		}
		for _, path := range names {
			if got, err := os.ReadFile(path); err == nil && strings.TrimSpace(string(got)) == name {
				port, err = os.OpenFile("/dev/"+filepath.Base(filepath.Dir(path)), os.O_RDWR, 0)
				return true, err
			}
		}
		return false, nil
	})
	if err != nil {
		return nil, fmt.Errorf("virtio port %q: %w", name, err)
	}
	return port, nil
}

func do(words []string) (string, error) {
	if len(words) == 0 {
		return "", fmt.Errorf("say something")
	}
	args := append(words[1:], "", "", "")
	switch words[0] {
	case "ping":
		return args[0], nil
	case "cmdline":
		b, err := os.ReadFile("/proc/cmdline")
		return strings.TrimSpace(string(b)), err
	case "uptime":
		b, err := os.ReadFile("/proc/uptime")
		return strings.TrimSpace(string(b)), err
	case "mount": // type source target
		if err := os.MkdirAll(args[2], 0o755); err != nil {
			return "", err
		}
		return "", unix.Mount(args[1], args[2], args[0], 0, "")
	case "unmount":
		return "", unix.Unmount(args[0], 0)
	case "cat":
		b, err := os.ReadFile(args[0])
		return strings.TrimSpace(string(b)), err
	case "write": // path text
		return "", write(args[0], args[1])
	case "fill": // path MiB
		return "", fill(args[0], args[1])
	case "remove": // path
		return "", os.Remove(args[0])
	case "memory": // what /proc/meminfo begins with
		b, err := os.ReadFile("/proc/meminfo")
		first, _, _ := strings.Cut(string(b), "\n")
		return first, err
	case "mkdir":
		return "", os.Mkdir(args[0], 0o755)
	case "stat": // path: device, inode
		var st unix.Stat_t
		err := unix.Stat(args[0], &st)
		return fmt.Sprint(st.Dev, st.Ino), err
	case "setxattr": // path name value
		return "", unix.Setxattr(args[0], args[1], []byte(args[2]), 0)
	case "console": // text
		return "", console(strings.Join(words[1:], " ") + "\n")
	case "flood": // the console and the port, with what a hostile guest may write
		junk := strings.Repeat("\x1b[2J\x00\xff\x9bjunk", 10_000)
		return "", console(junk)
	case "link": // mac: name, MTU
		return waitLink(args[0], true)
	case "nolink": // mac
		return waitLink(args[0], false)
	case "queues": // link
		return queues(args[0])
	case "send": // link text
		return "", sendFrame(args[0], args[1])
	case "disk": // serial: name, sectors, read-only
		return waitDisk(args[0], true)
	case "nodisk": // serial
		return waitDisk(args[0], false)
	case "poweroff":
		return "", unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	case "reboot":
		return "", unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	case "panic":
		syscall.Exit(7)
	}
	return "", fmt.Errorf("unknown command %q", words[0])
}

// console writes to the console and waits until all of it is sent.
func console(text string) error {
	f, err := os.OpenFile("/dev/console", os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.WriteString(text); err != nil {
		return err
	}
	return unix.IoctlSetInt(int(f.Fd()), unix.TCSBRK, 1)
}
