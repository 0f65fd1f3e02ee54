package layers

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/containerd/containerd/api/types"
)

// Overlay is a root filesystem as containerd's overlay snapshotters give it.
type Overlay struct {
	// Lower are the directories that are only read, the uppermost first.
	Lower []string
	// Upper is where what is written goes, empty if nothing can be.
	Upper string
}

// OverlayOf reads containerd's mounts of a root filesystem. It is an error, which says
// what they are instead, if they are not one plain overlay.
func OverlayOf(mounts []*types.Mount) (Overlay, error) {
	if len(mounts) != 1 || mounts[0].Type != "overlay" {
		return Overlay{}, fmt.Errorf("its mounts are %s and not one overlay", kinds(mounts))
	}
	var o Overlay
	for _, option := range mounts[0].Options {
		name, value, _ := strings.Cut(option, "=")
		switch name {
		case "lowerdir":
			o.Lower = strings.Split(value, ":")
		case "upperdir":
			o.Upper = value
		case "workdir", "index", "xino", "rw", "ro":
			// These do not change what the layers show.
		default:
			return Overlay{}, fmt.Errorf("its overlay has the option %s", option)
		}
	}
	return o, o.check()
}

// check refuses what could not be named in a mount option as it is.
func (o Overlay) check() error {
	dirs := o.Lower
	if o.Upper != "" {
		dirs = append(slices.Clone(dirs), o.Upper)
	}
	for _, dir := range dirs {
		if !path.IsAbs(dir) || path.Clean(dir) != dir || strings.ContainsAny(dir, `:,\`) {
			return fmt.Errorf("its overlay has the directory %q", dir)
		}
	}
	if len(o.Lower) == 0 {
		return errors.New("its overlay has no lower directory")
	}
	return nil
}

func kinds(mounts []*types.Mount) string {
	if len(mounts) == 0 {
		return "none"
	}
	var list []string
	for _, m := range mounts {
		list = append(list, m.Type)
	}
	return strings.Join(list, ", ")
}
