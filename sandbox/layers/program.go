package layers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// MakeImageOf makes an image of a few files, by path; nil is a directory. The file has
// no name, and is the caller's.
func (c Cache) MakeImageOf(ctx context.Context, files map[string][]byte) (_ *os.File, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("making an image: %w", err)
		}
	}()
	program, err := lookMkfsErofs()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return nil, err
	}
	most, err := c.room()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "hyper-image-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	tree, image := filepath.Join(dir, "tree"), filepath.Join(dir, "image")
	if err := writeTree(tree, files); err != nil {
		return nil, err
	}
	if err := runMkfs(ctx, most, program, "--quiet", image, tree); err != nil {
		return nil, err
	}
	return os.Open(image)
}

func writeTree(root string, files map[string][]byte) error {
	for name, content := range files {
		path := filepath.Join(root, name)
		dir := path
		if content != nil {
			dir = filepath.Dir(path)
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		if content == nil {
			continue
		}
		if err := os.WriteFile(path, content, 0o755); err != nil {
			return err
		}
	}
	return nil
}
