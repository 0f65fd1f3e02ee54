package sandbox

import (
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/containerd/errdefs"
)

// checkGuestHooks refuses createContainer hooks that the guest could not run,
// which would otherwise be told as "no such file": of the host's files it has
// only the hook's own.
func checkGuestHooks(spec *specs.Spec) error {
	if spec.Hooks == nil {
		return nil
	}
	for _, h := range spec.Hooks.CreateContainer {
		needs, err := interpreterOf(h.Path)
		if err != nil {
			return fmt.Errorf("createContainer hook %s: %w", h.Path, err)
		}
		if needs != "" {
			return fmt.Errorf("createContainer hook %s needs %s, which is not in the guest that the hook runs in: it must be a statically linked program: %w", h.Path, needs, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

// interpreterOf is the file that the kernel runs a program by: a shell, or the
// dynamic linker; empty if it needs none.
func interpreterOf(path string) (string, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return "", err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return "", errors.Join(err, errors.New("it is no regular file"))
	}
	line := make([]byte, 256) // of which the kernel reads as much
	n, err := io.ReadFull(f, line)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return "", fmt.Errorf("reading it: %w", err)
	}
	if script, ok := strings.CutPrefix(string(line[:n]), "#!"); ok {
		first, _, _ := strings.Cut(script, "\n")
		return strings.TrimSpace(first), nil
	}
	program, err := elf.NewFile(f)
	if err != nil {
		return "", fmt.Errorf("it is no program: %w", err)
	}
	for _, p := range program.Progs {
		if p.Type != elf.PT_INTERP {
			continue
		}
		name, err := io.ReadAll(io.LimitReader(p.Open(), unix.PathMax))
		if err != nil {
			return "", fmt.Errorf("reading its interpreter's name: %w", err)
		}
		return strings.TrimRight(string(name), "\x00"), nil
	}
	return "", nil
}
