package config

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/pelletier/go-toml/v2"
)

// Load reads the configuration: see the package comment for from where. Every
// error is an errdefs.ErrInvalidArgument, or an errdefs.ErrNotFound when
// $HYPER_CONFIG names a file that is not there.
func Load() (*Config, error) {
	if path := os.Getenv("HYPER_CONFIG"); path != "" {
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("reading the configuration: %s, which $HYPER_CONFIG names, does not exist: "+
				"make it or unset HYPER_CONFIG: %w", path, errdefs.ErrNotFound)
		}
		return load(path, thisHost())
	}
	return load(DefaultPath, thisHost())
}

// load reads path if it exists, then its drop-ins, over the defaults.
func load(path string, h host) (*Config, error) {
	files, err := filesOf(path)
	if err != nil {
		return nil, err
	}
	c, seen := Default(), positions{}
	for _, file := range files {
		if err := readInto(c, file, seen); err != nil {
			return nil, err
		}
	}
	if err := c.validate(h, seen); err != nil {
		return nil, err
	}
	return c, nil
}

// filesOf lists the configuration files of path in the order of reading.
func filesOf(path string) ([]string, error) {
	var files, dropIns []string
	switch _, err := os.Stat(path); {
	case err == nil:
		files = append(files, path)
	case !errors.Is(err, fs.ErrNotExist):
		return nil, unreadable(err)
	}
	for _, dir := range []string{path + ".d", strings.TrimSuffix(path, ".toml") + ".d"} {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, unreadable(err)
		}
		for _, entry := range entries {
			if strings.HasSuffix(entry.Name(), ".toml") && !entry.IsDir() {
				dropIns = append(dropIns, filepath.Join(dir, entry.Name()))
			}
		}
	}
	slices.SortStableFunc(dropIns, func(a, b string) int {
		return cmp.Compare(filepath.Base(a), filepath.Base(b))
	})
	// A path without ".toml" names the same directory twice.
	return append(files, slices.Compact(dropIns)...), nil
}

func unreadable(err error) error {
	return fmt.Errorf("reading the configuration: %w: make it readable or remove it: %w", err, errdefs.ErrInvalidArgument)
}

// readInto decodes one file over c, and notes in seen where its keys stand.
func readInto(c *Config, file string, seen positions) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return unreadable(err)
	}
	here, err := locate(file, data)
	if err != nil {
		return describe(file, err, nil)
	}
	if err := toml.NewDecoder(bytes.NewReader(data)).DisallowUnknownFields().Decode(c); err != nil {
		return describe(file, err, here)
	}
	for key, at := range here {
		seen[key] = at
	}
	return nil
}

// describe says what is wrong with a file in the operator's terms.
func describe(file string, err error, here positions) error {
	var missing *toml.StrictMissingError
	if errors.As(err, &missing) && len(missing.Errors) > 0 {
		first := &missing.Errors[0]
		line, _ := first.Position()
		return unknownKey(position{file, line}, strings.Join(first.Key(), "."))
	}
	const onlyDuration = "sandbox.boot_timeout"
	var duration notDuration
	if at, ok := here[onlyDuration]; ok && errors.As(err, &duration) {
		return badValue(at, onlyDuration, printed(string(duration)))
	}
	var bad *toml.DecodeError
	if !errors.As(err, &bad) {
		return fmt.Errorf("%s: %w: %w", file, err, errdefs.ErrInvalidArgument)
	}
	line, _ := bad.Position()
	at := position{file, line}
	if key, ok := here.at(at); ok {
		return badValue(at, key, "")
	}
	return fmt.Errorf("%s: not valid TOML: %s: %w", at, strings.TrimPrefix(bad.Error(), "toml: "), errdefs.ErrInvalidArgument)
}
