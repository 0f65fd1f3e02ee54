// Package image builds the container images of the tests, the demonstration and
// the benchmark without a network: busybox, a few users, and a helper of ours,
// which is also a pod's pause program.
//
// The same inputs make the same bytes: no time, order or identity of the host
// gets into it.
package image

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// The references of the archive's images. Pause is the same files with a command
// that does what the first container of a pod does: nothing.
const (
	Name  = "docker.io/hyper/busybox:test"
	Pause = "docker.io/hyper/pause:test"
)

// Image is a built image.
type Image struct {
	// Archive is an OCI layout in a tar file, as `ctr images import` reads it.
	Archive []byte
	// ChainID names the unpacked root filesystem in a snapshotter.
	ChainID string
}

// probeVariable is where the helper has been built already, for a machine without a
// compiler or too slow for one.
const probeVariable = "HYPER_TEST_PROBE"

// Build makes the image from the host's static busybox and from the sources of
// probe, which it compiles in the directory work unless $HYPER_TEST_PROBE has it.
func Build(ctx context.Context, work string) (*Image, error) {
	busybox, err := findBusybox()
	if err != nil {
		return nil, err
	}
	probe := os.Getenv(probeVariable)
	if probe == "" {
		probe, err = buildProbe(ctx, work)
	}
	if err != nil {
		return nil, err
	}
	links, err := applets(ctx, busybox)
	if err != nil {
		return nil, err
	}
	layer, err := layerOf(busybox, probe, links)
	if err != nil {
		return nil, fmt.Errorf("making the test image's layer: %w", err)
	}
	return archive(layer)
}

func findBusybox() (string, error) {
	file, err := exec.LookPath("busybox")
	if err != nil {
		return "", fmt.Errorf("the test image needs a static busybox: install busybox-static: %w", err)
	}
	return file, nil
}

func applets(ctx context.Context, busybox string) ([]string, error) {
	out, err := exec.CommandContext(ctx, busybox, "--list").Output()
	if err != nil {
		return nil, fmt.Errorf("listing the applets of %s: %w", busybox, err)
	}
	names := strings.Fields(string(out))
	slices.Sort(names)
	return slices.Compact(names), nil
}

// buildProbe compiles the helper; Go's cache makes it quick the second time.
func buildProbe(ctx context.Context, work string) (string, error) {
	_, here, _, ok := runtime.Caller(0)
	if !ok {
		return "", fmt.Errorf("the sources of the test image's helper are not known")
	}
	out := filepath.Join(work, "probe")
	cmd := exec.CommandContext(ctx, "go", "build", "-buildvcs=false", "-trimpath", "-ldflags", "-s -w -buildid=", "-o", out, "./probe")
	cmd.Dir = filepath.Dir(here)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if msg, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building the test image's helper: %w: %s", err, msg)
	}
	return out, nil
}

// textFiles are small files of the root filesystem.
func textFiles() map[string]string {
	return map[string]string{
		"etc/passwd": "root:x:0:0:root:/root:/bin/sh\n" +
			"daemon:x:1:1:daemon:/:/bin/false\n" +
			"user:x:1000:1000:user:/home/user:/bin/sh\n" +
			"nobody:x:65534:65534:nobody:/:/bin/false\n",
		"etc/group":       "root:x:0:\ndaemon:x:1:\nwheel:x:10:user\naudio:x:29:user\nuser:x:1000:\nnogroup:x:65534:\n",
		"etc/os-release":  "ID=hyper-test\nPRETTY_NAME=\"Hyper's test image\"\n",
		"etc/resolv.conf": "",
		"etc/hosts":       "",
	}
}

// entry is one file of the layer.
type entry struct {
	header tar.Header
	data   []byte
}

func layerOf(busybox, probe string, links []string) ([]byte, error) {
	var entries []entry
	for _, dir := range []string{"bin", "dev", "etc", "home", "proc", "root", "run", "sbin", "sys", "usr", "usr/bin", "var"} {
		entries = append(entries, entry{header: tar.Header{Name: dir + "/", Typeflag: tar.TypeDir, Mode: 0o755}})
	}
	entries = append(entries,
		entry{header: tar.Header{Name: "home/user/", Typeflag: tar.TypeDir, Mode: 0o755, Uid: 1000, Gid: 1000}},
		entry{header: tar.Header{Name: "tmp/", Typeflag: tar.TypeDir, Mode: 0o1777}},
		entry{header: tar.Header{Name: "etc/secret", Typeflag: tar.TypeReg, Mode: 0o600}, data: []byte("only root\n")},
	)
	for name, text := range textFiles() {
		entries = append(entries, entry{header: tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644}, data: []byte(text)})
	}
	for name, file := range map[string]string{"bin/busybox": busybox, "bin/probe": probe} {
		data, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		entries = append(entries, entry{header: tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o755}, data: data})
	}
	for _, name := range links {
		if name != "busybox" {
			entries = append(entries, entry{header: tar.Header{Name: path.Join("bin", name), Typeflag: tar.TypeSymlink, Linkname: "busybox", Mode: 0o777}})
		}
	}
	slices.SortFunc(entries, func(a, b entry) int { return strings.Compare(a.header.Name, b.header.Name) })
	return pack(entries)
}

func pack(entries []entry) ([]byte, error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, e := range entries {
		e.header.Size = int64(len(e.data))
		e.header.Format = tar.FormatUSTAR
		if err := w.WriteHeader(&e.header); err != nil {
			return nil, err
		}
		if _, err := w.Write(e.data); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}

// archive wraps a layer, uncompressed, into an OCI layout of both images.
func archive(layer []byte) (*Image, error) {
	diffID := digest.FromBytes(layer)
	blobs := [][]byte{layer}
	var manifests []ocispec.Descriptor
	for _, img := range []struct {
		name   string
		config ocispec.ImageConfig
	}{
		{Name, ocispec.ImageConfig{Cmd: []string{"sh"}}},
		{Pause, ocispec.ImageConfig{Entrypoint: []string{"/bin/probe", "pause"}}},
	} {
		img.config.Env = []string{"PATH=/bin:/sbin:/usr/bin"}
		config, err := json.Marshal(ocispec.Image{
			Platform: ocispec.Platform{Architecture: runtime.GOARCH, OS: "linux"},
			Config:   img.config,
			RootFS:   ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{diffID}},
		})
		if err != nil {
			return nil, err
		}
		manifest, err := json.Marshal(ocispec.Manifest{
			Versioned: specs.Versioned{SchemaVersion: 2},
			MediaType: ocispec.MediaTypeImageManifest,
			Config:    described(ocispec.MediaTypeImageConfig, config),
			Layers:    []ocispec.Descriptor{described(ocispec.MediaTypeImageLayer, layer)},
		})
		if err != nil {
			return nil, err
		}
		top := described(ocispec.MediaTypeImageManifest, manifest)
		top.Annotations = map[string]string{"io.containerd.image.name": img.name, ocispec.AnnotationRefName: "test"}
		manifests = append(manifests, top)
		blobs = append(blobs, config, manifest)
	}
	index, err := json.Marshal(ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, Manifests: manifests})
	if err != nil {
		return nil, err
	}
	data, err := layout(index, blobs)
	if err != nil {
		return nil, fmt.Errorf("writing the test image: %w", err)
	}
	// With one layer the chain's id is the layer's own.
	return &Image{Archive: data, ChainID: diffID.String()}, nil
}

// layout is an OCI image layout in a tar file.
func layout(index []byte, blobs [][]byte) ([]byte, error) {
	entries := []entry{
		{header: tar.Header{Name: ocispec.ImageLayoutFile, Mode: 0o644}, data: []byte(`{"imageLayoutVersion":"1.0.0"}`)},
		{header: tar.Header{Name: ocispec.ImageIndexFile, Mode: 0o644}, data: index},
	}
	for _, blob := range blobs {
		name := fmt.Sprintf("blobs/sha256/%x", sha256.Sum256(blob))
		entries = append(entries, entry{header: tar.Header{Name: name, Mode: 0o644}, data: blob})
	}
	return pack(entries)
}

func described(mediaType string, blob []byte) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(blob), Size: int64(len(blob))}
}

// WriteFile writes the archive to a file.
func (i *Image) WriteFile(file string) error {
	f, err := os.Create(file)
	if err != nil {
		return fmt.Errorf("writing the test image: %w", err)
	}
	_, err = io.Copy(f, bytes.NewReader(i.Archive))
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("writing the test image to %s: %w", file, err)
	}
	return nil
}
