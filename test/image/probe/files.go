package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// fileChecks are what programs expect of a file system and busybox cannot ask for.
func fileChecks() []struct {
	name string
	run  func(dir string) error
} {
	return []struct {
		name string
		run  func(dir string) error
	}{
		{"deleted and open", deletedAndOpen},
		{"shared mapping", sharedMapping},
		{"nameless", nameless},
		{"attributes", attributes},
		{"inotify", inotify},
		{"exchange", exchange},
		{"hole", hole},
		{"lock", lock},
	}
}

// files makes the checks in a directory, and says what came of each.
func files(dir string) error {
	var failed error
	for i, check := range fileChecks() {
		own := filepath.Join(dir, fmt.Sprintf("files-%d", i))
		err := os.Mkdir(own, 0o755)
		if err == nil {
			err = check.run(own)
		}
		if err != nil {
			failed = errors.New("some checks failed")
			fmt.Printf("%s: %v\n", check.name, err)
			continue
		}
		fmt.Printf("%s: ok\n", check.name)
	}
	return failed
}

func expect(got []byte, err error, want string) error {
	if err == nil && string(got) != want {
		err = fmt.Errorf("it has %q, not %q", got, want)
	}
	return err
}

// deletedAndOpen goes on with a file that has no name any more.
func deletedAndOpen(dir string) error {
	f, err := os.Create(filepath.Join(dir, "f"))
	if err != nil {
		return err
	}
	defer f.Close()
	if err := os.Remove(f.Name()); err != nil {
		return err
	}
	if _, err := f.WriteString("still here"); err != nil {
		return err
	}
	if err := f.Truncate(5); err != nil {
		return err
	}
	if err := f.Chmod(0o640); err != nil {
		return err
	}
	got := make([]byte, 5)
	_, err = f.ReadAt(got, 0)
	return expect(got, err, "still")
}

// sharedMapping writes by a mapping and reads by read(2), and the other way around.
func sharedMapping(dir string) error {
	f, err := os.Create(filepath.Join(dir, "f"))
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(1 << 16); err != nil {
		return err
	}
	memory, err := unix.Mmap(int(f.Fd()), 0, 1<<16, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	defer unix.Munmap(memory)
	copy(memory[5000:], "mapped")
	got := make([]byte, 6)
	_, err = f.ReadAt(got, 5000)
	if err := expect(got, err, "mapped"); err != nil {
		return err
	}
	if _, err := f.WriteAt([]byte("written"), 9000); err != nil {
		return err
	}
	if err := expect(memory[9000:9007], nil, "written"); err != nil {
		return err
	}
	return unix.Msync(memory, unix.MS_SYNC)
}

// nameless makes a file without a name, and then gives it one.
func nameless(dir string) error {
	f, err := os.OpenFile(dir, unix.O_TMPFILE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.WriteString("text"); err != nil {
		return err
	}
	name := filepath.Join(dir, "f")
	if err := unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", f.Fd()), unix.AT_FDCWD, name, unix.AT_SYMLINK_FOLLOW); err != nil {
		return err
	}
	got, err := os.ReadFile(name)
	return expect(got, err, "text")
}

func attributes(dir string) error {
	name := filepath.Join(dir, "f")
	if err := os.WriteFile(name, nil, 0o644); err != nil {
		return err
	}
	value := bytes.Repeat([]byte("value"), 100)
	if err := unix.Setxattr(name, "user.test", value, unix.XATTR_CREATE); err != nil {
		return err
	}
	got := make([]byte, 1024)
	n, err := unix.Getxattr(name, "user.test", got)
	if err != nil {
		return err
	}
	return expect(got[:n], nil, string(value))
}

// inotify watches what this process does.
func inotify(dir string) error {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), "inotify")
	defer f.Close()
	if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_CREATE|unix.IN_CLOSE_WRITE); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "seen"), []byte("x"), 0o644); err != nil {
		return err
	}
	if err := f.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return err
	}
	buf := make([]byte, 4096)
	n, err := f.Read(buf)
	if err == nil && !bytes.Contains(buf[:n], []byte("seen")) {
		err = errors.New("there is no event of it")
	}
	return err
}

func exchange(dir string) error {
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	if err := errors.Join(os.WriteFile(a, []byte("a"), 0o644), os.WriteFile(b, []byte("b"), 0o644)); err != nil {
		return err
	}
	if err := unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE); err != nil {
		return err
	}
	got, err := os.ReadFile(a)
	return expect(got, err, "b")
}

// hole takes the middle out of a file.
func hole(dir string) error {
	f, err := os.Create(filepath.Join(dir, "f"))
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Write(bytes.Repeat([]byte("x"), 3<<16)); err != nil {
		return err
	}
	if err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 1<<16, 1<<16); err != nil {
		return err
	}
	got := make([]byte, 3)
	_, err = f.ReadAt(got, 1<<16-1)
	return expect(got, err, "x\x00\x00")
}

// lock takes a lock of each kind, which another open file then cannot have.
func lock(dir string) error {
	name := filepath.Join(dir, "f")
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer f.Close()
	other, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer other.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		return err
	}
	if err := unix.Flock(int(other.Fd()), unix.LOCK_EX|unix.LOCK_NB); !errors.Is(err, unix.EWOULDBLOCK) {
		return fmt.Errorf("a second flock: %v", err)
	}
	whole := unix.Flock_t{Type: unix.F_WRLCK}
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &whole); err != nil {
		return err
	}
	if err := unix.FcntlFlock(other.Fd(), unix.F_OFD_SETLK, &whole); !errors.Is(err, unix.EAGAIN) {
		return fmt.Errorf("a second lock of the file's bytes: %v", err)
	}
	return nil
}
