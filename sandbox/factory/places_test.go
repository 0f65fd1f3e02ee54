package factory

import (
	"reflect"
	"testing"

	"github.com/hyperhq/hyper/config"
	"github.com/hyperhq/hyper/virtcontainers"
)

func TestPlaces(t *testing.T) {
	c := config.Default()
	c.Rootfs.ScratchMiB = 64
	f := &Cold{config: c}
	want := []virtcontainers.DiskPlace{
		{ID: "image1", Bytes: imagePlace, ReadOnly: true},
		{ID: "scratch1", Bytes: 64 << 20},
	}
	if got := f.places(false); !reflect.DeepEqual(got, want) {
		t.Errorf("without a share: %v, want %v", got, want)
	}
	if got := f.places(true); got != nil {
		t.Errorf("with a share: %v", got)
	}
	c.Rootfs.By = config.RootfsShare
	if got := f.places(false); got != nil {
		t.Errorf("with root file systems by shares: %v", got)
	}
}
