package harness

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// Parts is where the pieces are that a Cell is put together from.
type Parts struct {
	// Output is the directory of `make`'s results: bin, share/hyper.
	Output string
	// Containerds are directories with bin/{containerd,ctr}, oldest first.
	Containerds []string
	// RuncBin is a directory with runc, for runtimes to compare with.
	RuncBin string
	// Nerdctl is the program, or empty if there is none.
	Nerdctl string
	// Kubernetes is a directory with etcd, kube-apiserver and kubelet, or empty if there is none.
	Kubernetes string
	// RustVirtiofsd is the virtiofsd in Rust that was fetched, or empty if none was.
	RustVirtiofsd string
	// Kernels are the guest kernels that are built: "hyperkernel", "cloud".
	Kernels []string
}

// FindParts looks at $HYPER_OUTPUT (or _output of the checkout) and $HYPER_CACHE
// (or ~/.cache/hyper). It is an error that says what to run if there is no
// containerd, or no shim.
func FindParts() (*Parts, error) {
	p := &Parts{Output: os.Getenv("HYPER_OUTPUT")}
	if p.Output == "" {
		_, here, _, _ := runtime.Caller(0)
		p.Output = filepath.Join(filepath.Dir(here), "..", "..", "_output")
	}
	cache := os.Getenv("HYPER_CACHE")
	if cache == "" {
		user, err := os.UserCacheDir()
		if err != nil {
			return nil, fmt.Errorf("finding the cache: %w: set HYPER_CACHE", err)
		}
		cache = filepath.Join(user, "hyper")
	}
	found, _ := filepath.Glob(filepath.Join(cache, "containerd-*", "bin", "containerd"))
	slices.Sort(found)
	for _, file := range found {
		p.Containerds = append(p.Containerds, filepath.Dir(filepath.Dir(file)))
	}
	if len(p.Containerds) == 0 {
		return nil, fmt.Errorf("no %s/containerd-*/bin/containerd: run `make containerd`", cache)
	}
	if nerdctls, _ := filepath.Glob(filepath.Join(cache, "nerdctl-*", "bin", "nerdctl")); len(nerdctls) > 0 {
		p.Nerdctl = nerdctls[len(nerdctls)-1]
	}
	if kubelets, _ := filepath.Glob(filepath.Join(cache, "kubernetes-*", "bin", "kubelet")); len(kubelets) > 0 {
		p.Kubernetes = filepath.Dir(kubelets[len(kubelets)-1])
	}
	if daemons, _ := filepath.Glob(filepath.Join(cache, "virtiofsd-rust-*", "bin", "virtiofsd")); len(daemons) > 0 {
		p.RustVirtiofsd = daemons[len(daemons)-1]
	}
	p.RuncBin = filepath.Join(cache, "runc", "bin")
	for _, kernel := range []string{"hyperkernel", "cloud"} {
		files, image := p.Kernel(kernel)
		if exists(files) && exists(image) {
			p.Kernels = append(p.Kernels, kernel)
		}
	}
	return p, nil
}

// CheckHyper says what to run if the shim or every guest is missing.
func (p *Parts) CheckHyper() error {
	if shim := filepath.Join(p.Output, "bin", "containerd-shim-hyper-v2"); !exists(shim) {
		return fmt.Errorf("no %s: run `make build`", shim)
	}
	if len(p.Kernels) == 0 {
		return fmt.Errorf("no guest in %s/share/hyper: run `make guest`", p.Output)
	}
	return nil
}

// Kernel is where a guest kernel and its image are.
func (p *Parts) Kernel(name string) (kernel, image string) {
	dir := filepath.Join(p.Output, "share", "hyper", name)
	return filepath.Join(dir, "vmlinux"), filepath.Join(dir, "initrd.img")
}

// Newest is the newest containerd.
func (p *Parts) Newest() string { return p.Containerds[len(p.Containerds)-1] }

// version is the version in a containerd's directory name, such as "2.4.2".
func version(containerd string) string {
	return strings.TrimPrefix(filepath.Base(containerd), "containerd-")
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
