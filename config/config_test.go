package config

import (
	"bytes"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/pelletier/go-toml/v2"
)

var testHost = host{memoryMiB: 8192, cpus: 4}

// write makes files under a new directory and returns the path of config.toml.
func write(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, "config.toml")
}

func TestNoFileIsDefault(t *testing.T) {
	c, err := load(write(t, nil), testHost)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(c, Default()) {
		t.Errorf("got %+v, want the defaults", c)
	}
}

func TestInstalledFileIsDefault(t *testing.T) {
	data, err := os.ReadFile("config.toml")
	if err != nil {
		t.Fatal(err)
	}
	// Over a zero value: every key must be there.
	var c Config
	if err := toml.NewDecoder(bytes.NewReader(data)).DisallowUnknownFields().Decode(&c); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(&c, Default()) {
		t.Errorf("config.toml says %+v\nthe defaults are %+v", &c, Default())
	}
	here, err := locate("config.toml", data)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range known() {
		if _, ok := here[k.key]; !ok {
			t.Errorf("config.toml does not have %s", k.key)
		}
		delete(here, k.key)
	}
	if len(here) > 0 {
		t.Errorf("config.toml has more than known() describes: %v", here)
	}
}

func TestDropInsWinInLexicalOrder(t *testing.T) {
	c, err := load(write(t, map[string]string{
		"config.toml":              "[sandbox]\nmemory_mib = 300\nvcpus = 2\nannotations = [\"vcpus\"]",
		"config.toml.d/20-b.toml":  "[sandbox]\nmemory_mib = 320\n[qemu]\naccel = \"tcg\"",
		"config.d/30-c.toml":       "sandbox.memory_mib = 330",
		"config.toml.d/10-a.toml":  "[sandbox]\nmemory_mib = 310\nannotations = [\"memory_mib\"]\nboot_timeout = \"90s\"",
		"config.toml.d/40-ignored": "nonsense",
	}), testHost)
	if err != nil {
		t.Fatal(err)
	}
	want := Default()
	want.Sandbox.MemoryMiB = 330
	want.Sandbox.VCPUs = 2
	want.Sandbox.Annotations = []string{"memory_mib"}
	want.Sandbox.BootTimeout.Duration = 90 * time.Second
	want.QEMU.Accel = AccelTCG
	if !reflect.DeepEqual(c, want) {
		t.Errorf("got %+v\nwant %+v", c, want)
	}
}

func TestBadFiles(t *testing.T) {
	for _, test := range []struct {
		name, text string
		want       []string // parts of the message
	}{
		{"unknown key", "\n[sandbox]\nmemory = 3", []string{"config.toml:3", "unknown key sandbox.memory", "memory_mib", "vcpus"}},
		{"unknown table", "[kvm]\nx = 1", []string{"config.toml:1", "unknown key kvm", "[qemu]", "[sandbox]"}},
		{"unknown top-level key", "debug = true", []string{"config.toml:1", "unknown key debug", "[sandbox]"}},
		{"not TOML", "[sandbox]\nvcpus 1", []string{"config.toml:2", "not valid TOML"}},
		{"key given twice", "[sandbox]\nvcpus = 1\nvcpus = 2", []string{"config.toml:", "vcpus"}},
		{"string for a number", "[sandbox]\nvcpus = 1\nmemory_mib = \"256\"", []string{"config.toml:3", "sandbox.memory_mib", "whole number of MiB"}},
		{"number for a string", "[qemu]\nmachine = 1", []string{"config.toml:2", "qemu.machine", `"q35", "microvm"`}},
		{"number for a list", "[sandbox]\nannotations = 1", []string{"config.toml:2", "sandbox.annotations", "a list of"}},
		{"negative", "[sandbox]\nvcpus = -1", []string{"config.toml:2", "sandbox.vcpus", "from 1"}},
		{"too large for the type", "[sandbox]\nvcpus = 99999999999", []string{"config.toml:2", "sandbox.vcpus", "from 1"}},
		{"fraction", "[sandbox]\nvcpus = 1.5", []string{"config.toml:2", "sandbox.vcpus", "whole number"}},
		{"too little memory", "[sandbox]\nmemory_mib = 63", []string{"config.toml:2", "sandbox.memory_mib", "63", "from 64"}},
		{"more memory than the host", "[sandbox]\nmemory_mib = 8193", []string{"config.toml:2", "sandbox.memory_mib", "8193", "host's memory"}},
		{"more memory than the bound", "[sandbox]\nmemory_mib = 300\nmax_memory_mib = 256", []string{"config.toml:2", "sandbox.memory_mib", "300"}},
		{"bound below the default", "[sandbox]\nmax_memory_mib = 128", []string{"default configuration", "sandbox.memory_mib", "256"}},
		{"bound too small", "[sandbox]\nmax_memory_mib = 1", []string{"config.toml:2", "sandbox.max_memory_mib", "at least 64"}},
		{"no CPU", "[sandbox]\nvcpus = 0", []string{"config.toml:2", "sandbox.vcpus", "from 1"}},
		{"more CPUs than the host", "[sandbox]\nvcpus = 5", []string{"config.toml:2", "sandbox.vcpus", "5"}},
		{"CPU bound too large", "[sandbox]\nmax_vcpus = 256", []string{"config.toml:2", "sandbox.max_vcpus", "255"}},
		{"annotation unknown", "[sandbox]\nannotations = [\"vcpus\", \"kernel\"]", []string{"config.toml:2", "sandbox.annotations", `"kernel"`, `"memory_mib", "vcpus"`}},
		{"no duration", "[sandbox]\nboot_timeout = \"soon\"", []string{"config.toml:2", "sandbox.boot_timeout", `"30s"`}},
		{"number for a duration", "[sandbox]\nboot_timeout = 30", []string{"config.toml:2", "sandbox.boot_timeout", `"30s"`}},
		{"duration too short", "[sandbox]\nboot_timeout = \"1ms\"", []string{"config.toml:2", "sandbox.boot_timeout", "1ms"}},
		{"string for a flag", "[sandbox]\ndebug = \"yes\"", []string{"config.toml:2", "sandbox.debug", "true or false"}},
		{"relative kernel", "[guest]\nkernel = \"vmlinux\"", []string{"config.toml:2", "guest.kernel", `"vmlinux"`, "absolute path"}},
		{"kernel argument with a space", "[guest]\nkernel_args = [\"a b\"]", []string{"config.toml:2", "guest.kernel_args", `"a b"`}},
		{"machine", "[qemu]\nmachine = \"pc\"", []string{"config.toml:2", "qemu.machine", `"pc"`, `"q35", "microvm"`}},
		{"accelerator", "[qemu]\naccel = \"xen\"", []string{"config.toml:2", "qemu.accel", `"auto", "kvm", "tcg"`}},
		{"root's user id", "[qemu]\nuid_base = 0", []string{"config.toml:2", "qemu.uid_base", "from 65536"}},
		{"root filesystems", "[rootfs]\nby = \"disks\"", []string{"config.toml:2", "rootfs.by", `"auto", "share", "disk"`}},
		{"relative file", "[qemu]\nfiles = [\"/opt\", \"lib\"]", []string{"config.toml:2", "qemu.files", `"lib"`, "absolute"}},
		{"relative layers", "[rootfs]\nlayers = \"layers\"", []string{"config.toml:2", "rootfs.layers", "absolute"}},
		{"no room for layers", "[rootfs]\nlayers_mib = 0", []string{"config.toml:2", "rootfs.layers_mib", "0"}},
		{"scratch too small", "[rootfs]\nscratch_mib = 1", []string{"config.toml:2", "rootfs.scratch_mib", "16"}},
		{"cache", "[virtiofsd]\ncache = \"none\"", []string{"config.toml:2", "virtiofsd.cache", `"auto", "always", "never"`}},
		{"inline table", "sandbox = {vcpus = 77}", []string{"config.toml:1", "sandbox.vcpus", "77"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := load(write(t, map[string]string{"config.toml": test.text}), testHost)
			if err == nil {
				t.Fatal("accepted")
			}
			if !errdefs.IsInvalidArgument(err) {
				t.Errorf("%v is no invalid argument", err)
			}
			for _, part := range test.want {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%q does not say %q", err, part)
				}
			}
		})
	}
}

func TestBadDropInNamesItself(t *testing.T) {
	_, err := load(write(t, map[string]string{
		"config.toml":             "[sandbox]\nvcpus = 1",
		"config.toml.d/10-a.toml": "\n\n[sandbox]\nvcpus = 5",
	}), testHost)
	if err == nil || !strings.Contains(err.Error(), "config.toml.d/10-a.toml:4: sandbox.vcpus") {
		t.Errorf("got %v", err)
	}
}

func TestLoadTakesTheEnvironment(t *testing.T) {
	path := write(t, map[string]string{"config.toml": "[sandbox]\nmemory_mib = 77"})
	t.Setenv("HYPER_CONFIG", path)
	c, err := Load()
	if err != nil {
		t.Fatal(err)
	}
	if c.Sandbox.MemoryMiB != 77 {
		t.Errorf("got %d MiB", c.Sandbox.MemoryMiB)
	}
	t.Setenv("HYPER_CONFIG", path+".gone")
	if _, err := Load(); !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), path+".gone") {
		t.Errorf("got %v", err)
	}
}

func TestAnnotations(t *testing.T) {
	const memory, vcpus = AnnotationPrefix + "memory_mib", AnnotationPrefix + "vcpus"
	bound := Default()
	bound.Sandbox.MaxMemoryMiB = 512
	closed := Default()
	closed.Sandbox.Annotations = nil
	onlyCPUs := Default()
	onlyCPUs.Sandbox.Annotations = []string{"vcpus"}

	for _, test := range []struct {
		name   string
		config *Config
		given  map[string]string
		want   Sizing
		errHas []string
	}{
		{"none", Default(), nil, Sizing{256, 1}, nil},
		{"of others", Default(), map[string]string{"io.kubernetes.cri.sandbox-id": "x", "io.containerd.hyper.v20": "y"}, Sizing{256, 1}, nil},
		{"both", Default(), map[string]string{memory: "512", vcpus: "2"}, Sizing{512, 2}, nil},
		{"least", Default(), map[string]string{memory: "64"}, Sizing{64, 1}, nil},
		{"all the host has", Default(), map[string]string{memory: "8192", vcpus: "4"}, Sizing{8192, 4}, nil},
		{"unknown", Default(), map[string]string{AnnotationPrefix + "kernel": "x"}, Sizing{}, []string{AnnotationPrefix + "kernel", memory, vcpus}},
		{"not listed", onlyCPUs, map[string]string{memory: "512"}, Sizing{}, []string{memory, "not allowed", vcpus}},
		{"none listed", closed, map[string]string{memory: "512"}, Sizing{}, []string{memory, "none is allowed"}},
		{"over the bound", bound, map[string]string{memory: "513"}, Sizing{}, []string{memory, "513", "from 64 to 512"}},
		{"over the host", Default(), map[string]string{vcpus: "5"}, Sizing{}, []string{vcpus, "from 1 to 4"}},
		{"too small", Default(), map[string]string{memory: "63"}, Sizing{}, []string{memory, "from 64"}},
		{"no number", Default(), map[string]string{memory: "256M"}, Sizing{}, []string{memory, `"256M"`, "whole number"}},
		{"negative", Default(), map[string]string{vcpus: "-1"}, Sizing{}, []string{vcpus, `"-1"`}},
		{"empty", Default(), map[string]string{vcpus: ""}, Sizing{}, []string{vcpus, `""`}},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := test.config.applyAnnotations(test.given, testHost)
			if test.errHas == nil {
				if err != nil || got != test.want {
					t.Fatalf("got %v, %v; want %v", got, err, test.want)
				}
				return
			}
			if !errdefs.IsInvalidArgument(err) {
				t.Fatalf("got %v", err)
			}
			for _, part := range test.errHas {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%q does not say %q", err, part)
				}
			}
		})
	}
}

func TestGuestFiles(t *testing.T) {
	share := func(names ...string) string {
		files := map[string]string{}
		for _, name := range names {
			files[name] = "x"
		}
		return filepath.Dir(write(t, files))
	}
	both := share("hyperkernel/vmlinux", "hyperkernel/initrd.img", "cloud/vmlinux", "cloud/initrd.img")
	half := share("hyperkernel/vmlinux", "cloud/vmlinux", "cloud/initrd.img")
	none := share()
	own := filepath.Join(share("my"), "my")

	for _, test := range []struct {
		name, share   string
		guest         Guest
		kernel, image string
		errHas        []string
	}{
		{"tuned kernel preferred", both, Guest{}, both + "/hyperkernel/vmlinux", both + "/hyperkernel/initrd.img", nil},
		{"only a whole pair counts", half, Guest{}, half + "/cloud/vmlinux", half + "/cloud/initrd.img", nil},
		{"configured kernel", both, Guest{Kernel: own}, own, both + "/hyperkernel/initrd.img", nil},
		{"configured both", none, Guest{Kernel: own, Image: own}, own, own, nil},
		{"nothing", none, Guest{}, "", "", []string{none, "make guest", "make install", "guest.kernel"}},
		{"configured and gone", both, Guest{Kernel: "/nowhere/vmlinux"}, "", "", []string{"/nowhere/vmlinux", "guest.kernel", "make guest"}},
		{"a directory", both, Guest{Image: none}, "", "", []string{none, "guest.image", "not a regular file"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := Default()
			c.Guest = test.guest
			kernel, image, err := c.guestFiles(test.share)
			if test.errHas == nil {
				if err != nil || kernel != test.kernel || image != test.image {
					t.Fatalf("got %s, %s, %v", kernel, image, err)
				}
				return
			}
			if !errdefs.IsNotFound(err) {
				t.Fatalf("got %v", err)
			}
			for _, part := range test.errHas {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%q does not say %q", err, part)
				}
			}
		})
	}
}
