package image

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// staticProgram builds the smallest program that Build takes for an agent.
func staticProgram(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	source := filepath.Join(dir, "main.go")
	if err := os.WriteFile(source, []byte("package main\nfunc main() {}\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(dir, "init")
	build := exec.Command("go", "build", "-ldflags", "-s -w", "-o", out, source)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if msg, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v: %s", err, msg)
	}
	return out
}

func TestBuildWithModules(t *testing.T) {
	spec := Spec{
		Init: staticProgram(t),
		ModulesDir: moduleDir(t, map[string]string{
			"modules.dep":      "kernel/virtio.ko:\nkernel/virtio-rng.ko: kernel/virtio.ko\n",
			"modules.builtin":  "",
			"kernel/virtio.ko": "1", "kernel/virtio-rng.ko": "2",
		}),
		Modules: []string{"virtio_rng"},
	}
	var first, second bytes.Buffer
	if err := Build(&first, spec); err != nil {
		t.Fatal(err)
	}
	if err := Build(&second, spec); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(first.Bytes(), second.Bytes()) {
		t.Error("the same inputs made two different images")
	}
	files := contents(t, &first)
	if got, want := files["lib/modules/load"], "/lib/modules/virtio.ko\n/lib/modules/virtio_rng.ko\n"; got != want {
		t.Errorf("load list is %q, want %q", got, want)
	}
	if files["lib/modules/virtio_rng.ko"] != "2" {
		t.Error("virtio_rng.ko is not the module's content")
	}
	agent, err := os.ReadFile(spec.Init)
	if err != nil {
		t.Fatal(err)
	}
	if files["init"] != string(agent) {
		t.Error("/init is not the agent")
	}
}

func TestBuildWithoutModules(t *testing.T) {
	var b bytes.Buffer
	if err := Build(&b, Spec{Init: staticProgram(t)}); err != nil {
		t.Fatal(err)
	}
	files := contents(t, &b)
	for _, name := range []string{"dev/console", "proc", "sys", "run", "tmp", "etc"} {
		if _, ok := files[name]; !ok {
			t.Errorf("no /%s in the image", name)
		}
	}
	if _, ok := files["lib/modules/load"]; ok {
		t.Error("a load list, for a kernel without modules")
	}
}

func TestBuildRefusesAnInitThatCannotRun(t *testing.T) {
	notELF := filepath.Join(t.TempDir(), "init")
	if err := os.WriteFile(notELF, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for init, want := range map[string]string{
		notELF:            "not a program",
		"/does/not/exist": "no such file",
		"/bin/ls":         "dynamically linked",
	} {
		err := Build(&bytes.Buffer{}, Spec{Init: init})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error is %v, want one that says %q", init, err, want)
		}
	}
}

func TestBuildNamesAMissingModule(t *testing.T) {
	dir := moduleDir(t, map[string]string{"modules.dep": "", "modules.builtin": ""})
	err := Build(&bytes.Buffer{}, Spec{Init: staticProgram(t), ModulesDir: dir, Modules: []string{"virtio_pci"}})
	if err == nil || !strings.Contains(err.Error(), "virtio_pci") {
		t.Errorf("error is %v, want one that names virtio_pci", err)
	}
}

func contents(t *testing.T, archive *bytes.Buffer) map[string]string {
	t.Helper()
	entries, err := Read(bytes.NewReader(archive.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for _, e := range entries {
		files[e.Name] = string(e.Data)
	}
	return files
}
