package shim

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/hyperhq/hyper/sandbox/cgroup"
)

// serverEnv makes the test's program a server that mounts something on the directory that
// it names, and looks for it from outside.
const serverEnv = "HYPER_TEST_SERVER"

// lookFromOutside says what a process finds in dir that is started outside.
func lookFromOutside(dir string) error {
	if err := isolateMounts(); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "of-the-pod"), nil, 0o600); err != nil {
		return err
	}
	cmd := exec.Command("ls", dir)
	cmd.Stdout = os.Stdout
	if err := (&outside{mounts: os.NewFile(3, "mounts")}).startThere(cmd); err != nil {
		return err
	}
	return cmd.Wait()
}

func TestOutsideHasNothingOfThePodsMounts(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: it mounts")
	}
	mounts, err := os.Open("/proc/self/ns/mnt")
	if err != nil {
		t.Fatal(err)
	}
	defer mounts.Close()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "of-the-host"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	server := exec.Command("/proc/self/exe")
	server.Env = append(os.Environ(), serverEnv+"="+dir)
	server.ExtraFiles = []*os.File{mounts}
	server.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	out, err := server.CombinedOutput()
	if err != nil || strings.TrimSpace(string(out)) != "of-the-host" {
		t.Errorf("it finds %q, %v", out, err)
	}
}

// builderEnv makes the test's program a builder that writes what it has inherited into the
// fifo that it names.
const builderEnv = "HYPER_TEST_BUILDER"

// listInherited writes what a program that the builder starts would have.
func listInherited(fifo string) error {
	out, err := os.OpenFile(fifo, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer out.Close()
	cmd := exec.Command("sh", "-c", "exec ls -l /proc/self/fd")
	cmd.Stdout = out
	return cmd.Run()
}

func TestBuildersInheritNoNamespaceOfTheHost(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: it enters namespaces")
	}
	home, err := cgroup.Here()
	if err != nil {
		t.Skip(err)
	}
	mounts, err := os.Open("/proc/self/ns/mnt")
	if err != nil {
		t.Fatal(err)
	}
	defer mounts.Close()
	fifo := filepath.Join(t.TempDir(), "inherited")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv(builderEnv, fifo)
	out := &outside{mounts: mounts, home: home}
	for _, action := range []string{imageAction, buildAction} {
		if err := out.start(action, struct{}{}, 0); err != nil {
			t.Fatal(err)
		}
		if has, err := os.ReadFile(fifo); err != nil || len(has) == 0 || strings.Contains(string(has), "mnt:[") {
			t.Errorf("%s: a program of its has %s, %v", action, has, err)
		}
	}
}

// beServer ends the test's program if it is to be a server or a builder.
func beServer() {
	if fifo := os.Getenv(builderEnv); fifo != "" {
		if err := listInherited(fifo); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	dir := os.Getenv(serverEnv)
	if dir == "" {
		return
	}
	if err := lookFromOutside(dir); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	os.Exit(0)
}
