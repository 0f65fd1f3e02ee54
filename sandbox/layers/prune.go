package layers

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"
)

// cached is an image in a cache.
type cached struct {
	path  string
	bytes int64
	used  time.Time
}

// prune removes the images that have not been used for longest until the others fit,
// and what failed builds have left. An image that does not fit alone, such as that of
// key may be, is an error.
func (c Cache) prune(key string) error {
	images, err := c.list()
	if err != nil {
		return err
	}
	slices.SortFunc(images, func(a, b cached) int { return b.used.Compare(a.used) })
	var total int64
	for _, image := range images {
		if total += image.bytes; total <= c.MaxBytes {
			continue
		}
		if err := os.Remove(image.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if image.path == c.file(key, imageSuffix) {
			return fmt.Errorf("it has %d bytes, and all images together may have %d", image.bytes, c.MaxBytes)
		}
		total -= image.bytes
	}
	return nil
}

// list lists the images, and removes what nobody needs of the rest.
func (c Cache) list() ([]cached, error) {
	entries, err := os.ReadDir(c.Dir)
	if err != nil {
		return nil, err
	}
	var images []cached
	for _, e := range entries {
		key, suffix, ours := keyOf(e.Name())
		info, err := e.Info()
		if !ours || err != nil {
			continue
		}
		switch {
		case suffix == imageSuffix:
			images = append(images, cached{c.file(key, suffix), allocated(info), info.ModTime()})
		case suffix == failedSuffix && time.Since(info.ModTime()) > failureLasts:
			_ = os.Remove(c.file(key, suffix))
		case suffix == buildingSuffix:
			c.removeAbandoned(key)
		}
	}
	return images, nil
}

// removeAbandoned removes the file of a builder that has died.
func (c Cache) removeAbandoned(key string) {
	f, err := os.Open(c.file(key, buildingSuffix))
	if err != nil {
		return
	}
	defer f.Close()
	if tryLock(f) == nil {
		_ = c.removeMerged(key)
		_ = os.Remove(f.Name())
	}
}
