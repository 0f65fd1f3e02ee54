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

// loadModules loads what the test put into the image, in the order of its name.
func loadModules() error {
	modules, err := filepath.Glob("/modules/*.ko")
	if err != nil {
		return err
	}
	for _, path := range modules {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil {
			return fmt.Errorf("load %s: %w", path, err)
		}
		f.Close()
	}
	return nil
}

func openPort(name string) (*os.File, error) {
	names, err := filepath.Glob("/sys/class/virtio-ports/*/name")
	if err != nil {
		return nil, err
	}
	for _, path := range names {
		if got, err := os.ReadFile(path); err == nil && strings.TrimSpace(string(got)) == name {
			return os.OpenFile("/dev/"+filepath.Base(filepath.Dir(path)), os.O_RDWR, 0)
		}
	}
	return nil, fmt.Errorf("no virtio port %q among %q", name, names)
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
		return "", os.WriteFile(args[0], []byte(args[1]), 0o644)
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
