package e2e

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/hyperhq/hyper/test/harness"
)

// What templates are kept of, which tests find to be as it was saved: two boots of a guest
// are most of what such a test would take otherwise.
const (
	ofQEMU       = "plain"
	ofFaultyQEMU = "faulty"
)

// kept is where a template is kept in a cell.
func kept(c *harness.Cell, of string) string { return filepath.Join(c.Dir, "kept-templates", of) }

// keepTemplate keeps the test's only template for others.
func keepTemplate(t *testing.T, c *harness.Cell, of string) {
	t.Helper()
	path := awaitTemplate(t, c)
	dir := kept(c, of)
	if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o700), copyFile(path, filepath.Join(dir, filepath.Base(path)))); err != nil {
		t.Fatal(err)
	}
}

// keptTemplate has the one that is kept be the test's only template, with nothing known of
// failures. If none is kept it is built.
func keptTemplate(t *testing.T, c *harness.Cell, of string) {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(kept(c, of), "*.template"))
	if err != nil {
		t.Fatal(err)
	}
	if len(found) == 0 {
		templateOf(t, c)
		keepTemplate(t, c, of)
		return
	}
	forgetTemplates(t, c)
	if err := errors.Join(os.Mkdir(c.Templates(), 0o700), copyFile(found[0], filepath.Join(c.Templates(), filepath.Base(found[0])))); err != nil {
		t.Fatal(err)
	}
}

// linkTemplates has the templates of a directory in another as well.
func linkTemplates(from, to string) error {
	found, err := filepath.Glob(filepath.Join(from, "*.template"))
	if err != nil {
		return err
	}
	if err := os.MkdirAll(to, 0o700); err != nil {
		return err
	}
	for _, path := range found {
		if err := os.Link(path, filepath.Join(to, filepath.Base(path))); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	return nil
}

// copyFile copies a file that the test may then damage.
func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}
