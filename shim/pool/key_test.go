package pool

import (
	"os"
	"testing"

	"github.com/hyperhq/hyper/config"
	"github.com/hyperhq/hyper/sandbox"
	"github.com/hyperhq/hyper/virtcontainers"
)

func TestKeyTellsApart(t *testing.T) {
	base := func() Identity {
		return Identity{
			Namespace: "default", Address: "/run/containerd/containerd.sock", Config: config.Default(),
			Wants: sandbox.Wants{Size: virtcontainers.Size{MemoryMiB: 256, VCPUs: 1}}, Place: "here",
		}
	}
	keyOf := func(i Identity) string {
		key, err := i.Key()
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	seen := map[string]string{keyOf(base()): "nothing"}
	if again := keyOf(base()); seen[again] == "" {
		t.Fatal("the same has two keys")
	}
	for what, change := range map[string]func(*Identity){
		"the namespace":     func(i *Identity) { i.Namespace = "other" },
		"the containerd":    func(i *Identity) { i.Address = "/run/other.sock" },
		"the memory":        func(i *Identity) { i.Wants.Size.MemoryMiB++ },
		"the processors":    func(i *Identity) { i.Wants.Size.VCPUs++ },
		"the place":         func(i *Identity) { i.Place = "there" },
		"the configuration": func(i *Identity) { i.Config.Guest.KernelArgs = []string{"quiet"} },
		"its largest size":  func(i *Identity) { i.Config.Sandbox.MaxMemoryMiB = 1024 },
		"its debugging":     func(i *Identity) { i.Config.Sandbox.Debug = true },
	} {
		i := base()
		change(&i)
		key := keyOf(i)
		if other, ok := seen[key]; ok {
			t.Errorf("%s makes no difference to %s", what, other)
		}
		seen[key] = what
	}
	t.Setenv("PATH", "/elsewhere")
	if _, ok := seen[keyOf(base())]; ok {
		t.Error("where programs are searched makes no difference")
	}
}

func TestPlaceOfIsThatOfThisProcess(t *testing.T) {
	mounts, err := os.Open("/proc/self/ns/mnt")
	if err != nil {
		t.Fatal(err)
	}
	defer mounts.Close()
	other, err := os.Open("/proc/self/ns/net") // of another number
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	a, err1 := PlaceOf(mounts)
	b, err2 := PlaceOf(mounts)
	c, err3 := PlaceOf(other)
	if err1 != nil || err2 != nil || err3 != nil {
		t.Fatal(err1, err2, err3)
	}
	if a != b || a == c {
		t.Errorf("%q, %q and %q", a, b, c)
	}
}
