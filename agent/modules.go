package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// moduleList names the kernel modules to load, one absolute path a line, those
// that others need first. A kernel with all built in has no such file.
const moduleList = "/lib/modules/load"

// modules loads the kernel's modules in the background, in their order, which
// begins with those of the channel.
type modules struct {
	log *logger
	// filesystems is where the kernel lists the file systems it knows.
	filesystems string

	mu    sync.Mutex
	step  chan struct{} // closed and replaced when one more has been loaded
	ended bool
}

func newModules(log *logger, filesystems string) *modules {
	return &modules{log: log, filesystems: filesystems, step: make(chan struct{})}
}

// load loads the modules of a list. It is called once.
func (m *modules) load(list string) {
	defer m.progress(true)
	data, err := os.ReadFile(list)
	if errors.Is(err, os.ErrNotExist) {
		return
	}
	var paths []string
	if err == nil {
		paths, err = parseModuleList(string(data))
	}
	if err != nil {
		m.log.infof("kernel modules: %v", err)
		return
	}
	// The thread, whose priority changes, ends with this.
	runtime.LockOSThread()
	modest := false
	for _, path := range paths {
		// One that fails may not be needed: what is missing shows where it is used.
		if err := loadModule(path); err != nil {
			m.log.infof("%v", err)
		}
		m.progress(false)
		if !modest && m.has("overlay") {
			// What a container needs is there. It should not wait for the rest.
			modest = true
			_ = unix.Setpriority(unix.PRIO_PROCESS, unix.Gettid(), 19)
		}
	}
}

func (m *modules) progress(ended bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	close(m.step)
	m.step = make(chan struct{})
	m.ended = m.ended || ended
}

// has says whether the kernel knows a file system now.
func (m *modules) has(filesystem string) bool {
	list, err := os.ReadFile(m.filesystems)
	return err == nil && slices.Contains(strings.Fields(string(list)), filesystem)
}

// await waits until the kernel knows the file system, or all modules are loaded.
func (m *modules) await(ctx context.Context, filesystem string) error {
	if err := m.awaitStep(ctx, func() bool { return m.has(filesystem) }); err != nil {
		return fmt.Errorf("waiting for the kernel's %s module: %w", filesystem, err)
	}
	return nil
}

// loaded waits until all modules are loaded.
func (m *modules) loaded(ctx context.Context) error {
	if err := m.awaitStep(ctx, func() bool { return false }); err != nil {
		return fmt.Errorf("waiting for the kernel's modules: %w", err)
	}
	return nil
}

// awaitStep waits until enough says so, or all modules are loaded.
func (m *modules) awaitStep(ctx context.Context, enough func() bool) error {
	for {
		m.mu.Lock()
		step, ended := m.step, m.ended
		m.mu.Unlock()
		if ended || enough() {
			return nil
		}
		select {
		case <-step:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func parseModuleList(list string) ([]string, error) {
	var paths []string
	for line := range strings.Lines(list) {
		path := strings.TrimSpace(line)
		if path == "" || strings.HasPrefix(path, "#") {
			continue
		}
		if !filepath.IsAbs(path) {
			return nil, fmt.Errorf("%s: %q is not an absolute path", moduleList, path)
		}
		paths = append(paths, path)
	}
	return paths, nil
}

func loadModule(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("loading a module: %w", err)
	}
	defer f.Close()
	err = unix.FinitModule(int(f.Fd()), "", 0)
	if err != nil && err != unix.EEXIST {
		return fmt.Errorf("loading the module %s: %w", path, err)
	}
	return nil
}
