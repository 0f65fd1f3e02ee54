package layers

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Deadline bounds the building of one image.
const Deadline = 15 * time.Minute

// failureLasts is how long what could not be built is not tried again.
const failureLasts = 24 * time.Hour

// The kinds of files in a cache, by how their names end.
const (
	imageSuffix    = ".erofs"
	buildingSuffix = ".building"
	failedSuffix   = ".failed"
	// of directories, as long as an image is being built
	mergedSuffix = ".merged"
)

// Cache is a directory of images.
type Cache struct {
	// Dir is its path; it need not be there.
	Dir string
	// MaxBytes bounds what the images take together.
	MaxBytes int64
}

func (c Cache) file(key, suffix string) string { return filepath.Join(c.Dir, key+suffix) }

// Open opens an image for reading, and marks it as used now. One that is damaged is
// removed. The error is an fs.ErrNotExist if there is none that can be used.
func (c Cache) Open(key string) (*os.File, error) {
	path := c.file(key, imageSuffix)
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	if err := checkImage(f); err != nil {
		f.Close()
		err = fmt.Errorf("image %s is damaged: %w: %w", path, err, fs.ErrNotExist)
		if rerr := os.Remove(path); rerr != nil && !errors.Is(rerr, fs.ErrNotExist) {
			err = errors.Join(err, rerr)
		}
		return nil, err
	}
	// If it cannot be marked it is only removed the sooner.
	now := time.Now()
	_ = os.Chtimes(path, now, now)
	return f, nil
}

// Wanted says whether an image that is not there should be built: nobody has failed
// to, lately, and nobody is at it.
func (c Cache) Wanted(key string) bool {
	info, err := os.Stat(c.file(key, failedSuffix))
	if err == nil && time.Since(info.ModTime()) < failureLasts {
		return false
	}
	f, err := os.Open(c.file(key, buildingSuffix))
	if err != nil {
		return true
	}
	defer f.Close()
	return tryLock(f) == nil
}

// fail notes that an image cannot be built, and why.
func (c Cache) fail(key string, why error) error {
	return os.WriteFile(c.file(key, failedSuffix), []byte(why.Error()+"\n"), 0o600)
}

// keyOf is the key in the name of one of the cache's files, and how the name ends.
func keyOf(name string) (key, suffix string, ok bool) {
	key, end, _ := strings.Cut(name, ".")
	return key, "." + end, isKey(key)
}
