package agent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// moduleList names the kernel modules to load, one absolute path a line, those
// that others need first. A kernel with all built in has no such file.
const moduleList = "/lib/modules/load"

func loadModules(log *logger) error {
	list, err := os.ReadFile(moduleList)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading the list of modules: %w", err)
	}
	paths, err := parseModuleList(string(list))
	if err != nil {
		return err
	}
	for _, path := range paths {
		// One that fails may not be needed: what is missing shows where it is used.
		if err := loadModule(path); err != nil {
			log.infof("%v", err)
		}
	}
	return nil
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
