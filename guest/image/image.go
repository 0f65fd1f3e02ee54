package image

import (
	"debug/elf"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
)

// LoadList is where the guest finds the modules it has to load: one absolute path a line, in order. The file
// is not there when the kernel has everything built in.
const LoadList = "/lib/modules/load"

// directories that the agent finds made. The kernel gives it nothing but what is in the image.
var directories = []string{
	"dev", "etc", "lib", "lib/modules", "mnt", "proc", "root", "run", "sbin", "sys", "tmp", "usr", "usr/bin", "var", "var/lib",
}

// A Spec says what goes into an image.
type Spec struct {
	// Init is the program that becomes PID 1: a statically linked ELF executable on the host.
	Init string
	// ModulesDir is the directory of the kernel's modules, with depmod's indexes. Empty for a kernel without modules.
	ModulesDir string
	// Modules are the names of the modules that the guest needs; what they depend on is added.
	Modules []string
}

// Build writes the image. On an error, what was written until then is no image.
func Build(w io.Writer, spec Spec) error {
	entries, err := Entries(spec)
	if err != nil {
		return err
	}
	return Write(w, entries)
}

// Entries returns the files of the image, for Write.
func Entries(spec Spec) ([]Entry, error) {
	tree := newTree()
	for _, dir := range directories {
		tree.dir(dir)
	}
	// Without a console node the kernel starts init with no open file, and its first words are lost.
	tree.add(Entry{Name: "dev/console", Mode: TypeChar | 0o600, Major: 5, Minor: 1})
	tree.add(Entry{Name: "dev/null", Mode: TypeChar | 0o666, Major: 1, Minor: 3})

	agent, err := readInit(spec.Init)
	if err != nil {
		return nil, err
	}
	tree.add(Entry{Name: "init", Mode: TypeRegular | 0o755, Data: agent})
	if err := addModules(tree, spec); err != nil {
		return nil, err
	}
	return tree.entries, nil
}

func addModules(t *tree, spec Spec) error {
	if len(spec.Modules) == 0 {
		return nil
	}
	modules, err := OpenModules(spec.ModulesDir)
	if err != nil {
		return fmt.Errorf("reading the kernel's modules: %w", err)
	}
	files, err := modules.Order(spec.Modules...)
	if err != nil {
		return err
	}
	var load strings.Builder
	for _, file := range files {
		data, err := modules.Read(file)
		if err != nil {
			return err
		}
		// Flat: the path inside the kernel's tree tells the guest nothing, and directories cost entries.
		name := "lib/modules/" + moduleName(file) + ".ko"
		t.add(Entry{Name: name, Mode: TypeRegular | 0o644, Data: data})
		fmt.Fprintf(&load, "/%s\n", name)
	}
	t.add(Entry{Name: strings.TrimPrefix(LoadList, "/"), Mode: TypeRegular | 0o644, Data: []byte(load.String())})
	return nil
}

// readInit reads the program, and refuses one that the guest could not run: there is no loader and no library
// in the image, and the kernel would only say "Failed to execute /init (error -2)".
func readInit(file string) ([]byte, error) {
	f, err := elf.Open(file)
	if err != nil {
		return nil, fmt.Errorf("the guest's init: %s is not a program that can be read: %w", file, err)
	}
	defer f.Close()
	if f.Machine != elf.EM_X86_64 {
		return nil, fmt.Errorf("the guest's init: %s is for %s, not for x86-64", file, f.Machine)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return nil, fmt.Errorf("the guest's init: %s is dynamically linked, and the guest has no loader: link it statically", file)
		}
	}
	return os.ReadFile(file)
}

// tree collects entries, and the directories that lead to them.
type tree struct {
	entries []Entry
	dirs    map[string]bool
}

func newTree() *tree { return &tree{dirs: map[string]bool{}} }

func (t *tree) dir(name string) {
	if name == "." || t.dirs[name] {
		return
	}
	t.dir(path.Dir(name))
	t.dirs[name] = true
	mode := uint32(0o755)
	if name == "tmp" {
		mode = 0o1777
	}
	t.entries = append(t.entries, Entry{Name: name, Mode: TypeDir | mode})
}

func (t *tree) add(e Entry) {
	t.dir(path.Dir(e.Name))
	t.entries = append(t.entries, e)
}
