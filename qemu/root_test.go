package qemu

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// checkRoot looks at what a QEMU whose guest has answered sees of the host's files.
func checkRoot(t *testing.T, pid int) {
	t.Helper()
	inside := fmt.Sprintf("/proc/%d/root", pid)
	var seen []string
	err := filepath.WalkDir(inside+"/", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil && !d.IsDir() && d.Type()&fs.ModeSymlink == 0 && (!info.Mode().IsRegular() || info.Size() > 0) {
			seen = append(seen, strings.TrimPrefix(path, inside))
		}
		return err
	})
	want := []string{"/dev/null", "/dev/urandom", "/sys/kernel/mm/transparent_hugepage/hpage_pmd_size"}
	if err != nil || !slices.Equal(seen, want) {
		t.Errorf("QEMU sees %q (%v), want %q", seen, err, want)
	}
	for _, name := range []string{"x", "usr/x", "dev/x"} {
		if err := os.WriteFile(filepath.Join(inside, name), nil, 0o644); !errors.Is(err, unix.EROFS) {
			t.Errorf("writing /%s of QEMU: %v", name, err)
		}
	}
	if cwd, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid)); err != nil || cwd != "/" {
		t.Errorf("QEMU works in %q, %v", cwd, err)
	}
}

// TestQEMUElsewhere runs a QEMU that is not installed as distributions do: its program,
// its modules and its ROMs below a directory of their own, by a link to it.
func TestQEMUElsewhere(t *testing.T) {
	newDriver(t, Config{}) // skips where it must
	usual, err := exec.LookPath(binaryName)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	run := func(args ...string) {
		t.Helper()
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%q: %v: %s", args, err, out)
		}
	}
	prefix := filepath.Join(dir, "elsewhere")
	const modules = "lib/x86_64-linux-gnu/qemu"
	for _, sub := range []string{"bin", "share", filepath.Dir(modules)} {
		if err := os.MkdirAll(filepath.Join(prefix, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	program := filepath.Join(prefix, "bin", binaryName)
	run("cp", usual, program)
	run("cp", "-rL", "/usr/share/qemu", filepath.Join(prefix, "share/qemu"))
	if _, err := os.Stat(filepath.Join("/usr", modules)); err == nil {
		run("cp", "-rL", filepath.Join("/usr", modules), filepath.Join(prefix, modules))
	}
	link := filepath.Join(dir, "qemu")
	if err := os.Symlink(program, link); err != nil {
		t.Fatal(err)
	}
	for name, cfg := range map[string]Config{
		"by a link":   {Path: link},
		"by a script": {Path: writeFile(t, "script", []byte("#!/bin/sh\nexec "+program+" \"$@\"\n"), 0o755), Files: []string{prefix}},
	} {
		t.Run(name, func(t *testing.T) {
			cfg.Firmware = filepath.Join(prefix, "share/qemu", firmwareName)
			vm := start(t, newDriver(t, cfg), testSpec(t))
			connect(t, vm).ask(t, "ping")
			exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", vm.PID()))
			if err != nil || filepath.Base(exe) != binaryName {
				t.Errorf("it runs %s, %v", exe, err)
			}
			checkRoot(t, vm.PID())
		})
	}
}
