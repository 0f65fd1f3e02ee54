package image

import (
	"bufio"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// Modules is what a directory such as /lib/modules/6.1.0 says of its kernel's modules.
type Modules struct {
	dir     string
	path    map[string]string   // module name → path of its file, relative to dir
	needs   map[string][]string // module name → names it depends on directly or not
	wants   map[string][]string // module name → names to load before it, when they exist
	builtin map[string]bool
}

// OpenModules reads the indexes of the kernel release whose modules are in dir: modules.dep, modules.builtin
// and, when it is there, modules.softdep. The first and last of them are depmod(8)'s work.
func OpenModules(dir string) (*Modules, error) {
	m := &Modules{
		dir:     dir,
		path:    map[string]string{},
		needs:   map[string][]string{},
		wants:   map[string][]string{},
		builtin: map[string]bool{},
	}
	if err := eachLine(filepath.Join(dir, "modules.dep"), m.addDependency); err != nil {
		return nil, err
	}
	if err := eachLine(filepath.Join(dir, "modules.builtin"), m.addBuiltin); err != nil {
		return nil, err
	}
	err := eachLine(filepath.Join(dir, "modules.softdep"), m.addSoftDependency)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return m, nil
}

func eachLine(file string, do func(string) error) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		if err := do(line); err != nil {
			return fmt.Errorf("%s:%d: %w", file, n, err)
		}
	}
	return lines.Err()
}

// addDependency takes "kernel/fs/fuse/virtiofs.ko: kernel/fs/fuse/fuse.ko ...".
func (m *Modules) addDependency(line string) error {
	file, rest, ok := strings.Cut(line, ":")
	if !ok {
		return fmt.Errorf("%q is not a path, a colon and paths", line)
	}
	if !filepath.IsLocal(file) {
		return fmt.Errorf("%q leads out of the directory", file)
	}
	name := moduleName(file)
	m.path[name] = file
	for dep := range strings.FieldsSeq(rest) {
		m.needs[name] = append(m.needs[name], moduleName(dep))
	}
	return nil
}

func (m *Modules) addBuiltin(line string) error {
	m.builtin[moduleName(line)] = true
	return nil
}

// addSoftDependency takes "softdep ext4 pre: crc32c post: other"; only what comes before counts here.
func (m *Modules) addSoftDependency(line string) error {
	words := strings.Fields(line)
	if len(words) < 2 || words[0] != "softdep" {
		return fmt.Errorf("%q is not a soft dependency", line)
	}
	name, before := canonical(words[1]), false
	for _, word := range words[2:] {
		switch word {
		case "pre:":
			before = true
		case "post:":
			before = false
		default:
			if before {
				m.wants[name] = append(m.wants[name], canonical(word))
			}
		}
	}
	return nil
}

// moduleName is the name of the module in a file: "kernel/drivers/char/hw_random/virtio-rng.ko.xz" holds virtio_rng.
func moduleName(file string) string {
	name, _, _ := strings.Cut(path.Base(file), ".")
	return canonical(name)
}

// canonical spells a module's name as the kernel does, which takes '-' for '_'.
func canonical(name string) string { return strings.ReplaceAll(name, "-", "_") }

// Order returns the files, relative to the directory, that have to be loaded to have the named modules, in an
// order in which they can be: dependencies first, and otherwise as named. Modules that are built into the
// kernel need no file. A name that is neither a module nor built in is an error.
func (m *Modules) Order(names ...string) ([]string, error) {
	o := ordering{modules: m, state: map[string]visit{}}
	for _, name := range names {
		if err := o.add(canonical(name)); err != nil {
			return nil, err
		}
	}
	return o.files, nil
}

type visit int

const (
	visiting visit = iota + 1
	visited
)

type ordering struct {
	modules *Modules
	state   map[string]visit
	files   []string
}

func (o *ordering) add(name string) error {
	m := o.modules
	switch o.state[name] {
	case visited:
		return nil
	case visiting:
		return fmt.Errorf("module %s depends on itself", name)
	}
	file, ok := m.path[name]
	if !ok {
		if m.builtin[name] {
			return nil
		}
		return fmt.Errorf("module %s is neither in %s nor built into its kernel", name, m.dir)
	}
	o.state[name] = visiting
	for _, dep := range m.wants[name] {
		// A soft dependency that does not exist is no failure: that is what makes it soft.
		if _, ok := m.path[dep]; ok && o.state[dep] != visiting {
			if err := o.add(dep); err != nil {
				return err
			}
		}
	}
	// modules.dep lists the closest dependency first; the farthest has to be loaded first.
	deps := m.needs[name]
	for i := len(deps) - 1; i >= 0; i-- {
		if err := o.add(deps[i]); err != nil {
			return fmt.Errorf("for %s: %w", name, err)
		}
	}
	o.state[name] = visited
	o.files = append(o.files, file)
	return nil
}

// Read returns the module in file, a path that Order gave, decompressed.
func (m *Modules) Read(file string) ([]byte, error) {
	f, err := os.Open(filepath.Join(m.dir, file))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	r, err := decompressor(f, path.Ext(file))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.Name(), err)
	}
	data, err := io.ReadAll(r)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.Name(), err)
	}
	return data, nil
}

func decompressor(r io.Reader, ext string) (io.Reader, error) {
	switch ext {
	case ".gz":
		return gzip.NewReader(r)
	case ".xz":
		return xz.NewReader(r)
	case ".zst":
		return zstd.NewReader(r, zstd.WithDecoderConcurrency(1))
	default:
		return r, nil
	}
}
