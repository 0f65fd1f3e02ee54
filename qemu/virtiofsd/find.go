package virtiofsd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"github.com/hyperhq/hyper/qemu/process"
)

// Flavour is which of the two daemons a binary is; they take different arguments.
type Flavour int

const (
	// FlavourC is the daemon of QEMU's own sources, up to 7.2.
	FlavourC Flavour = iota + 1
	// FlavourRust is the daemon of the virtio-fs project.
	FlavourRust
)

// String returns the language in which it is written.
func (f Flavour) String() string {
	switch f {
	case FlavourC:
		return "C"
	case FlavourRust:
		return "Rust"
	default:
		return fmt.Sprintf("Flavour(%d)", int(f))
	}
}

// Binary is a daemon that was found.
type Binary struct {
	Path    string
	Flavour Flavour
}

const (
	name = "virtiofsd"
	hint = "install it (Debian's package is virtiofsd, or qemu-system-common before Debian 13) or name it in the configuration"
	// versionTimeout bounds the run of a binary that is asked what it is. That takes
	// milliseconds, but seconds on a host that starts a hundred pods from a cold disk.
	versionTimeout = 30 * time.Second
	// pipeTime bounds the wait for what such a binary has started itself.
	pipeTime = 3 * time.Second
)

// usualPlaces are where distributions put the daemon, which is no command for
// people and so seldom on PATH.
func usualPlaces() []string {
	return []string{"/usr/libexec/virtiofsd", "/usr/lib/qemu/virtiofsd", "/usr/lib/virtiofsd", "/usr/local/libexec/virtiofsd"}
}

// Find returns the daemon at path, or with an empty path the first one on PATH or
// in the usual places.
//
// Errors: ErrNotFound if there is none, ErrFailedPrecondition if it cannot be run
// or is something else, the context's if it does not answer.
func Find(ctx context.Context, path string) (Binary, error) {
	if path == "" {
		found, err := search()
		if err != nil {
			return Binary{}, err
		}
		path = found
	}
	ctx, cancel := context.WithTimeout(ctx, versionTimeout)
	defer cancel()
	var text bytes.Buffer
	cmd := exec.CommandContext(ctx, path, "--version")
	cmd.Stdout, cmd.Stderr = &text, &text
	cmd.Env = []string{}
	cmd.WaitDelay = pipeTime
	err := cmd.Run()
	if err != nil && ctx.Err() != nil {
		return Binary{}, fmt.Errorf("%s %s was asked for its version and has not answered: it is something else, or this host is too busy: %w",
			name, path, ctx.Err())
	}
	if errors.Is(err, os.ErrNotExist) {
		return Binary{}, fmt.Errorf("%s %s does not exist: %s: %w", name, path, hint, errdefs.ErrNotFound)
	}
	if err != nil {
		return Binary{}, fmt.Errorf("%s %s cannot be run: %w: %s: %w", name, path, err, hint, errdefs.ErrFailedPrecondition)
	}
	flavour, err := flavourOf(text.String())
	if err != nil {
		return Binary{}, fmt.Errorf("%s %s: %w: %s", name, path, err, hint)
	}
	return Binary{Path: path, Flavour: flavour}, nil
}

func search() (string, error) {
	if found, err := exec.LookPath(name); err == nil {
		return filepath.Abs(found)
	}
	places := usualPlaces()
	for _, path := range places {
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o111 != 0 {
			return path, nil
		}
	}
	return "", fmt.Errorf("find %s: not on PATH nor at %s: %s: %w", name, strings.Join(places, ", "), hint, errdefs.ErrNotFound)
}

// flavourOf tells the daemons apart by what they say of themselves: both begin
// with their name and version, and only the one in C goes on about FUSE.
func flavourOf(version string) (Flavour, error) {
	switch {
	case !strings.HasPrefix(version, name):
		return 0, fmt.Errorf("is something else: it calls itself %q: %w",
			process.Printable(version[:min(len(version), 80)]), errdefs.ErrFailedPrecondition)
	case strings.Contains(version, "FUSE kernel interface") || strings.Contains(version, "QEMU Project"):
		return FlavourC, nil
	default:
		return FlavourRust, nil
	}
}
