package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"go.uber.org/goleak"

	agentv1 "github.com/hyperhq/hyper/proto/hyper/agent/v1"
)

// replica is a directory in which changes are made as an agent makes them.
type replica struct {
	dir string

	mu      sync.Mutex
	made    []string // kinds and paths of the changes, in order
	largest int      // bytes of data in one message
	fail    error    // of the next message, after its first change
}

func newReplica(t *testing.T) *replica { return &replica{dir: t.TempDir()} }

func (r *replica) send(_ context.Context, changes []*agentv1.VolumeChange) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	data := 0
	for _, c := range changes {
		data += len(c.Data)
		if err := r.change(c); err != nil {
			return err
		}
		r.made = append(r.made, c.Kind.String()+" "+c.Path)
		if fail := r.fail; fail != nil {
			r.fail = nil
			return fail
		}
	}
	r.largest = max(r.largest, data)
	return nil
}

func (r *replica) change(c *agentv1.VolumeChange) error {
	path := filepath.Join(r.dir, c.Path)
	switch c.Kind {
	case agentv1.VolumeChange_DIRECTORY:
		if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		return os.Chmod(path, fs.FileMode(c.Mode)&fs.ModePerm)
	case agentv1.VolumeChange_FILE:
		if c.Offset == 0 {
			os.Remove(path)
		}
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, fs.FileMode(c.Mode))
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = f.WriteAt(c.Data, c.Offset)
		return err
	case agentv1.VolumeChange_LINK:
		os.Remove(path)
		return os.Symlink(c.Target, path)
	case agentv1.VolumeChange_RENAME:
		return os.Rename(path, filepath.Join(r.dir, c.Target))
	case agentv1.VolumeChange_REMOVE:
		return os.RemoveAll(path)
	}
	return fmt.Errorf("change %v", c)
}

// content describes a directory: what is at each path.
func content(t *testing.T, dir string) map[string]string {
	t.Helper()
	found := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		text := fmt.Sprintf("%v ", info.Mode())
		switch {
		case entry.Type() == fs.ModeSymlink:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			text += target
		case entry.Type().IsRegular():
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			text += string(data)
		}
		name, err := filepath.Rel(dir, path)
		found[name] = text
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func sameContent(t *testing.T, r *replica, source string) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if got, want := content(t, r.dir), content(t, source); !maps.Equal(got, want) {
		t.Errorf("the copy has\n%.2000v, the volume\n%.2000v", got, want)
	}
}

// script runs steps on a directory, one a line.
func script(t *testing.T, dir, lines string) {
	t.Helper()
	for line := range strings.Lines(lines) {
		w := strings.Fields(line)
		if len(w) == 0 {
			continue
		}
		path := filepath.Join(dir, w[1])
		var err error
		switch w[0] {
		case "dir":
			err = os.Mkdir(path, 0o755)
		case "file":
			err = os.WriteFile(path, []byte(w[2]), 0o644)
		case "link":
			err = os.Symlink(w[2], path)
		case "rename":
			err = os.Rename(path, filepath.Join(dir, w[2]))
		case "remove":
			err = os.RemoveAll(path)
		case "chmod":
			err = os.Chmod(path, 0o700)
		default:
			err = fmt.Errorf("no such step")
		}
		if err != nil {
			t.Fatalf("%s: %v", line, err)
		}
	}
}

const first = `
	dir ..1
	file ..1/key one
	file ..1/empty -
	link ..data ..1
	link key ..data/key
	link empty ..data/empty`

func newCopy(t *testing.T, source string, r *replica) *Copy {
	t.Helper()
	w, err := NewWatcher()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	c := New(source, r.send, w)
	t.Cleanup(c.Close)
	return c
}

func TestSync(t *testing.T) {
	for name, change := range map[string]string{
		"nothing":     "",
		"exchange":    "dir ..2\nfile ..2/key two\nlink ..data_tmp ..2\nrename ..data_tmp ..data\nremove ..1\nremove empty",
		"half way":    "dir ..2\nlink ..data_tmp ..2",
		"in place":    "file ..1/key changed",
		"kinds":       "remove ..1/key\ndir ..1/key\nfile ..1/key/deep x\nremove ..data\ndir ..data\nremove key\nfile key x",
		"mode":        "chmod ..1",
		"its own tmp": "file ..1/key_tmp mine\nfile ..1/key changed",
		"all":         "remove ..1\nremove ..data\nremove key\nremove empty",
		"deep":        "dir a\ndir a/b\ndir a/b/c\nfile a/b/c/d x\nlink a/b/out ../../../../etc/passwd",
	} {
		t.Run(name, func(t *testing.T) {
			source, r := t.TempDir(), newReplica(t)
			script(t, source, first)
			c := newCopy(t, source, r)
			for _, lines := range []string{"", change} {
				script(t, source, lines)
				if err := c.Sync(t.Context()); err != nil {
					t.Fatal(err)
				}
				sameContent(t, r, source)
			}
			before := len(r.made)
			if err := c.Sync(t.Context()); err != nil || len(r.made) != before {
				t.Errorf("again: %v, made %q", err, r.made[before:])
			}
		})
	}
}

// TestOrder has who reads through the links find something at any time.
func TestOrder(t *testing.T) {
	source, r := t.TempDir(), newReplica(t)
	script(t, source, "dir ..1\nfile ..1/key one\nlink ..data ..1\nlink key ..data/key")
	c := newCopy(t, source, r)
	if err := c.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.made = nil
	script(t, source, "dir ..2\nfile ..2/key two\nfile ..2/new n\nlink ..data_tmp ..2\nrename ..data_tmp ..data\nlink new ..data/new\nremove ..1")
	if err := c.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"DIRECTORY ..2", "FILE ..2/key", "FILE ..2/new", "LINK ..data_tmp", "RENAME ..data_tmp", "LINK new", "REMOVE ..1",
		"DIRECTORY .", "DIRECTORY ..2",
	}
	if !slices.Equal(r.made, want) {
		t.Errorf("made %q, want %q", r.made, want)
	}
}

// TestSyncAfterFailure fails after each of the changes, and goes on.
func TestSyncAfterFailure(t *testing.T) {
	source, r := t.TempDir(), newReplica(t)
	script(t, source, "dir ..1\nfile ..1/key one\nlink ..data ..1\nlink key ..data/key")
	c := newCopy(t, source, r)
	refused := errors.New("refused")
	for i := 0; ; i++ {
		r.fail = refused
		err := c.Sync(t.Context())
		if err != nil && !errors.Is(err, refused) {
			t.Fatal(err)
		}
		if i == 3 {
			script(t, source, "dir ..2\nfile ..2/key two\nremove ..data\nlink ..data ..2\nremove ..1")
		}
		if i == 6 {
			break
		}
	}
	r.fail = nil
	if err := c.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	sameContent(t, r, source)
}

func TestLargeFilesGoInParts(t *testing.T) {
	source, r := t.TempDir(), newReplica(t)
	if err := os.WriteFile(filepath.Join(source, "large"), []byte(strings.Repeat("0123456789abcdef", 5<<20/16+1)), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := newCopy(t, source, r).Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	sameContent(t, r, source)
	if r.largest > 2<<20 {
		t.Errorf("a message had %d bytes", r.largest)
	}
}

func TestTooLarge(t *testing.T) {
	source, r := t.TempDir(), newReplica(t)
	path := filepath.Join(source, "large")
	if err := errors.Join(os.WriteFile(path, nil, 0o644), os.Truncate(path, MaxSize+1)); err != nil {
		t.Fatal(err)
	}
	if err := newCopy(t, source, r).Sync(t.Context()); !errdefs.IsResourceExhausted(err) || len(r.made) > 0 {
		t.Errorf("got %v, after %q", err, r.made)
	}
}

// TestFollow changes a volume until it is gone.
func TestFollow(t *testing.T) {
	t.Cleanup(func() { goleak.VerifyNone(t) })
	source, r := filepath.Join(t.TempDir(), "v"), newReplica(t)
	script(t, filepath.Dir(source), "dir v\ndir v/..1\nfile v/..1/key one\nlink v/..data ..1")
	c := newCopy(t, source, r)
	if err := c.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	followed := make(chan struct{})
	go func() {
		defer close(followed)
		c.Follow(ctx, func(err error) { t.Log("warned:", err) })
	}()
	for i := 2; i < 6; i++ {
		script(t, source, fmt.Sprintf("dir ..%d\nfile ..%d/key now%d\nlink ..data_tmp ..%d\nrename ..data_tmp ..data\nremove ..%d", i, i, i, i, i-1))
		for want := fmt.Sprint("now", i); ; time.Sleep(time.Millisecond) {
			if data, err := os.ReadFile(filepath.Join(r.dir, "..data", "key")); err == nil && string(data) == want {
				break
			}
			if ctx.Err() != nil {
				t.Fatalf("change %d does not arrive", i)
			}
		}
	}
	if err := os.RemoveAll(source); err != nil {
		t.Fatal(err)
	}
	<-followed
	if ctx.Err() != nil {
		t.Error("a volume that is gone is followed")
	}
}

// TestWhatDoesNotRestIsLookedAtAgain reads a volume that changes during each reading.
func TestWhatDoesNotRestIsLookedAtAgain(t *testing.T) {
	c := newCopy(t, t.TempDir(), newReplica(t))
	reads := 0
	c.readTree = func(source string, w *watch) (tree, error) {
		reads++
		w.remind()
		return readTree(source, w)
	}
	if err := c.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	if reads != maxReads {
		t.Errorf("it was read %d times, not %d", reads, maxReads)
	}
	if !c.watch.drain() {
		t.Error("the last change is forgotten")
	}
}

func TestFollowEndsWithItsContext(t *testing.T) {
	t.Cleanup(func() { goleak.VerifyNone(t) })
	source, r := t.TempDir(), newReplica(t)
	c := newCopy(t, source, r)
	if err := c.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(10*time.Millisecond, cancel)
	c.Follow(ctx, func(err error) { t.Error(err) })
}

// TestCopiesOfOneVolume are told of its changes as long as each is open.
func TestCopiesOfOneVolume(t *testing.T) {
	source, first, second := t.TempDir(), newReplica(t), newReplica(t)
	one := newCopy(t, source, first)
	other := New(source, second.send, one.watch.watcher)
	if err := errors.Join(one.Sync(t.Context()), other.Sync(t.Context())); err != nil {
		t.Fatal(err)
	}
	script(t, source, "file a x")
	if !one.watch.drain() || !other.watch.drain() {
		t.Error("a copy was not told")
	}
	one.Close()
	script(t, source, "file b x")
	if one.watch.drain() || !other.watch.drain() {
		t.Error("the one that is closed was told, or the other was not")
	}
	other.Close()
	w := other.watch.watcher
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.watches) > 0 {
		t.Errorf("watched still: %v", w.watches)
	}
}

// TestWithoutAWatcher has nothing to follow a volume with.
func TestWithoutAWatcher(t *testing.T) {
	source, r := t.TempDir(), newReplica(t)
	script(t, source, "file a x")
	c := New(source, r.send, nil)
	if err := c.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	sameContent(t, r, source)
	c.Follow(t.Context(), func(err error) { t.Error(err) })
	c.Close()
}
