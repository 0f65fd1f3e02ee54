package template

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// childEnv names the directory of a store in which a child of the tests builds, and
// never ends.
const childEnv = "HYPER_TEST_BUILD_IN"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childEnv); dir != "" {
		buildForever(dir)
	}
	os.Exit(m.Run())
}

// buildForever is a builder that is killed: it has begun to write.
func buildForever(dir string) {
	s := NewStore(dir, 8, 1<<30)
	err := s.Build(context.Background(), "key", func(context.Context) (memory, state *os.File, err error) {
		if err := os.WriteFile(s.path("key", unfinish), []byte("half"), 0o600); err != nil {
			return nil, nil, err
		}
		fmt.Println("building")
		select {}
	})
	fmt.Println(err)
	os.Exit(1)
}

const testPages = 3000

// machine is a saved machine: some pages of random bytes, some that were made empty
// again, and many that never were used.
func machine(t *testing.T, seed byte) (memory, state *os.File) {
	t.Helper()
	memory, err := NewMemory(testPages * pageSize)
	if err != nil {
		t.Fatal(err)
	}
	rng := rand.NewChaCha8([32]byte{seed})
	page := make([]byte, pageSize)
	for i := range testPages {
		switch {
		case i%7 == 0 || i > 400 && i < 1200:
			rng.Read(page)
		case i%5 == 0:
			clear(page)
		default:
			continue
		}
		if _, err := memory.WriteAt(page, int64(i)*pageSize); err != nil {
			t.Fatal(err)
		}
	}
	if state, err = NewMemory(0); err != nil {
		t.Fatal(err)
	}
	if _, err := state.WriteString(strings.Repeat("state", 1000)); err != nil {
		t.Fatal(err)
	}
	return memory, state
}

func content(t *testing.T, f *os.File) []byte {
	t.Helper()
	b, err := io.ReadAll(io.NewSectionReader(f, 0, 1<<40))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// build builds a template, and fails the test if that does.
func build(t *testing.T, s *Store, key string, seed byte) {
	t.Helper()
	err := s.Build(t.Context(), key, func(context.Context) (memory, state *os.File, err error) {
		memory, state = machine(t, seed)
		return memory, state, nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func open(t *testing.T, s *Store, key string) *Image {
	t.Helper()
	im, err := s.Open(key)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { im.Close() })
	return im
}

func names(t *testing.T, dir string) (list []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() != lockFile && e.Name() != holders {
			list = append(list, e.Name())
		}
	}
	return list
}

func newStore(t *testing.T) *Store {
	t.Helper()
	return NewStore(filepath.Join(t.TempDir(), "templates"), 3, 1<<30)
}

func TestWhatIsStoredComesBack(t *testing.T) {
	s := newStore(t)
	if _, err := s.Open("key"); !errdefs.IsNotFound(err) {
		t.Errorf("an empty store: %v", err)
	}
	build(t, s, "key", 1)
	im := open(t, s, "key")
	memory, state := machine(t, 1)
	got, err := NewMemory(im.MemorySize())
	if err != nil {
		t.Fatal(err)
	}
	defer got.Close()
	if err := im.Fill(got); err != nil || !bytes.Equal(content(t, got), content(t, memory)) {
		t.Errorf("the memory is not what was saved (%v)", err)
	}
	devices, err := im.State()
	if err != nil {
		t.Fatal(err)
	}
	defer devices.Close()
	if !bytes.Equal(content(t, devices), content(t, state)) {
		t.Error("the state is not what was saved")
	}
	if at, _ := devices.Seek(0, io.SeekCurrent); at != 0 {
		t.Errorf("the state stands at %d", at)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(got.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	info, err := im.file.Stat()
	if err != nil {
		t.Fatal(err)
	}
	// Pages of zeros are neither stored nor made.
	if used := st.Blocks * 512; used > info.Size() {
		t.Errorf("%d bytes in memory of %d stored", used, info.Size())
	}
	if list := names(t, s.dir); len(list) != 1 {
		t.Errorf("the store holds %v", list)
	}
}

func TestBuildOnlyOnce(t *testing.T) {
	s := newStore(t)
	build(t, s, "key", 1)
	err := s.Build(t.Context(), "key", func(context.Context) (memory, state *os.File, err error) {
		return nil, nil, errors.New("built again")
	})
	if err != nil || s.Wanted("key") {
		t.Errorf("%v, wanted %v", err, s.Wanted("key"))
	}
}

func TestOneBuilderAtATime(t *testing.T) {
	s := newStore(t)
	build(t, s, "key", 1)
	err := s.Build(t.Context(), "other", func(ctx context.Context) (memory, state *os.File, err error) {
		second := s.Build(ctx, "third", func(context.Context) (memory, state *os.File, err error) {
			return nil, nil, errors.New("two builders")
		})
		if !errdefs.IsUnavailable(second) {
			t.Errorf("a second builder: %v", second)
		}
		memory, state = machine(t, 2)
		return memory, state, nil
	})
	if err != nil {
		t.Error(err)
	}
}

// TestKilledBuilder: the lock ends with its process, and what that left is removed.
func TestKilledBuilder(t *testing.T) {
	s := newStore(t)
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), childEnv+"="+s.dir)
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	defer child.Wait()
	defer child.Process.Kill()
	word := make([]byte, len("building"))
	if _, err := io.ReadFull(out, word); err != nil || string(word) != "building" {
		t.Fatalf("%q, %v", word, err)
	}
	if err := s.Build(t.Context(), "other", nil); !errdefs.IsUnavailable(err) {
		t.Errorf("beside a builder: %v", err)
	}
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	child.Wait()
	build(t, s, "other", 1)
	if list := names(t, s.dir); len(list) != 1 || list[0] != "other"+suffix {
		t.Errorf("the store holds %v", list)
	}
}

func TestAFailedBuildIsNotTriedAgainAtOnce(t *testing.T) {
	s := newStore(t)
	broken := errors.New("it does not boot")
	fail := func(context.Context) (memory, state *os.File, err error) { return nil, nil, broken }
	if err := s.Build(t.Context(), "key", fail); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
	if s.Wanted("key") {
		t.Error("it is wanted again")
	}
	if err := s.Build(t.Context(), "key", fail); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), broken.Error()) {
		t.Errorf("at once: %v", err)
	}
	old := time.Now().Add(-failSpell - time.Minute)
	if err := os.Chtimes(s.path("key", failed), old, old); err != nil {
		t.Fatal(err)
	}
	if !s.Wanted("key") {
		t.Error("it is never wanted again")
	}
	build(t, s, "key", 1)
	if list := names(t, s.dir); len(list) != 1 {
		t.Errorf("the store holds %v", list)
	}
}

// TestDamage changes each part of a file, in each way: no damage goes unseen.
func TestDamage(t *testing.T) {
	s := newStore(t)
	build(t, s, "key", 1)
	whole, err := os.ReadFile(s.path("key", suffix))
	if err != nil {
		t.Fatal(err)
	}
	im := open(t, s, "key")
	parts := map[string]int{
		"magic": 0, "memory size": 9, "runs": 17, "state size": 21, "state sum": 25, "table sum": 29, "zeros": 40, "head sum": headSize - 1,
		"table": headSize + runSize, "state": int(im.head.stateAt()) + 7, "first page": int(im.head.stateAt()) + int(im.head.state), "last page": len(whole) - 1,
	}
	for name, at := range parts {
		damaged := bytes.Clone(whole)
		damaged[at] ^= 0x40
		checkDamaged(t, s, name, damaged)
	}
	for _, size := range []int{0, 1, headSize - 1, headSize, headSize + 5, int(im.head.stateAt()), int(im.head.stateAt()) + 1, len(whole) - pageSize, len(whole) - 1} {
		checkDamaged(t, s, fmt.Sprintf("%d bytes", size), whole[:size])
	}
	checkDamaged(t, s, "more", append(bytes.Clone(whole), 0))
}

// checkDamaged stores a file and expects it to be found out, by which it is removed.
func checkDamaged(t *testing.T, s *Store, name string, data []byte) {
	t.Helper()
	if err := os.WriteFile(s.path("key", suffix), data, 0o600); err != nil {
		t.Fatal(err)
	}
	im, err := s.Open("key")
	if err == nil {
		err = use(t, im)
		if !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: the damage is not seen: %v", name, err)
		}
		if err := s.Drop(im); err != nil {
			t.Error(err)
		}
		im.Close()
	} else if !errors.Is(err, ErrDamaged) || !errdefs.IsNotFound(err) {
		t.Errorf("%s: %v", name, err)
	}
	if !s.Wanted("key") {
		t.Errorf("%s: it is not to be built anew", name)
	}
}

func use(t *testing.T, im *Image) error {
	t.Helper()
	state, err := im.State()
	if err != nil {
		return err
	}
	state.Close()
	memory, err := NewMemory(im.MemorySize())
	if err != nil {
		t.Fatal(err)
	}
	defer memory.Close()
	return im.Fill(memory)
}

func TestDropLeavesAnotherInItsPlace(t *testing.T) {
	s := newStore(t)
	build(t, s, "key", 1)
	old := open(t, s, "key")
	if err := s.Drop(old); err != nil || !s.Wanted("key") {
		t.Errorf("dropped: %v", err)
	}
	build(t, s, "key", 2)
	if err := s.Drop(old); err != nil || s.Wanted("key") {
		t.Errorf("another was dropped (%v)", err)
	}
	if err := use(t, old); err != nil {
		t.Errorf("what was dropped cannot be used by who has it: %v", err)
	}
	if err := s.Discredit(open(t, s, "key"), errors.New("of no use")); err != nil || s.Wanted("key") {
		t.Errorf("discredited: %v, wanted %v", err, s.Wanted("key"))
	}
	if _, err := s.Open("key"); !errdefs.IsNotFound(err) {
		t.Errorf("discredited, and there: %v", err)
	}
}

// TestBounds has the least used make room.
func TestBounds(t *testing.T) {
	s := newStore(t)
	for i, key := range []string{"a", "b", "c"} {
		build(t, s, key, byte(i))
		old := time.Now().Add(time.Duration(i-10) * time.Minute)
		if err := os.Chtimes(s.path(key, suffix), old, old); err != nil {
			t.Fatal(err)
		}
	}
	open(t, s, "a") // so b is the least used
	build(t, s, "d", 4)
	if s.Wanted("a") || !s.Wanted("b") || s.Wanted("c") || s.Wanted("d") {
		t.Errorf("the store holds %v", names(t, s.dir))
	}
	info, err := os.Stat(s.path("d", suffix))
	if err != nil {
		t.Fatal(err)
	}
	build(t, NewStore(s.dir, 3, 2*info.Size()), "e", 5)
	if list := names(t, s.dir); len(list) != 2 || s.Wanted("e") {
		t.Errorf("with room for two the store holds %v", list)
	}
	err = NewStore(s.dir, 3, info.Size()-1).Build(t.Context(), "f", func(context.Context) (memory, state *os.File, err error) {
		memory, state = machine(t, 6)
		return memory, state, nil
	})
	if !errdefs.IsResourceExhausted(err) || s.Wanted("f") {
		t.Errorf("more than all may have: %v", err)
	}
}

func TestSharedMemoryCannotBeChanged(t *testing.T) {
	s := newStore(t)
	build(t, s, "key", 1)
	im := open(t, s, "key")
	first, err := s.Share(im)
	if err != nil {
		t.Fatal(err)
	}
	second, err := s.Share(open(t, s, "key"))
	if err != nil {
		t.Fatal(err)
	}
	a, aerr := inodeOf(first.File)
	b, berr := inodeOf(second.File)
	if err := errors.Join(aerr, berr); err != nil || a != b {
		t.Errorf("two have memory of their own: %d and %d, %v", a, b, err)
	}
	memory, _ := machine(t, 1)
	if !bytes.Equal(content(t, second.File), content(t, memory)) {
		t.Error("it is not what was saved")
	}
	checkSealed(t, first.File)
	if err := errors.Join(first.Close(), second.Close()); err != nil {
		t.Error(err)
	}
	if left, _ := os.ReadDir(filepath.Join(s.dir, holders)); len(left) > 0 {
		t.Errorf("records are left: %v", left)
	}
}

// checkSealed tries what a QEMU could that a guest has taken over: it can open the
// file for writing, and no more.
func checkSealed(t *testing.T, f *os.File) {
	t.Helper()
	w, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	fd := int(w.Fd())
	if _, err := w.WriteAt([]byte{1}, 0); !errors.Is(err, unix.EPERM) {
		t.Errorf("write: %v", err)
	}
	for what, mode := range map[string]uint32{"punch a hole": unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE, "grow": 0} {
		if err := unix.Fallocate(fd, mode, 0, 1<<30); !errors.Is(err, unix.EPERM) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := w.Truncate(0); !errors.Is(err, unix.EPERM) {
		t.Errorf("shrink: %v", err)
	}
	if m, err := unix.Mmap(fd, 0, pageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err == nil {
		unix.Munmap(m)
		t.Error("it can be mapped for writing")
	}
	m, err := unix.Mmap(fd, 0, pageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE)
	if err != nil {
		t.Fatalf("map a copy: %v", err)
	}
	defer unix.Munmap(m)
	before := content(t, f)[0]
	m[0] = before + 1
	if content(t, f)[0] != before {
		t.Error("a change of a copy changes the file")
	}
}

// TestHoldersThatAreNone has records of what is not, or not any more, the memory.
func TestHoldersThatAreNone(t *testing.T) {
	s := newStore(t)
	build(t, s, "key", 1)
	im := open(t, s, "key")
	dir := filepath.Join(s.dir, holders)
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	unsealed, err := NewMemory(im.MemorySize())
	if err != nil {
		t.Fatal(err)
	}
	defer unsealed.Close()
	record, err := im.hold(dir, unsealed)
	if err != nil {
		t.Fatal(err)
	}
	mine, ok := parseHolder(filepath.Base(record))
	if !ok {
		t.Fatalf("%s is no record", record)
	}
	dead, gone, other := mine, mine, mine
	dead.start++
	gone.fd = 1 << 20
	other.image++
	for _, h := range []holder{dead, gone, other} {
		if err := os.WriteFile(filepath.Join(dir, h.name()), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"key-x", "key-1-0-0-0-0", "a-b-c-d-e-f", strings.Repeat("9-", 100)} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	sh, err := s.Share(im)
	if err != nil {
		t.Fatal(err)
	}
	defer sh.Close()
	memory, _ := machine(t, 1)
	if !bytes.Equal(content(t, sh.File), content(t, memory)) {
		t.Error("it is not what was saved")
	}
	for name, want := range map[string]bool{mine.name(): true, dead.name(): false, gone.name(): true, other.name(): true, "key-x": false} {
		if _, err := os.Stat(filepath.Join(dir, name)); (err == nil) != want {
			t.Errorf("record %s is there: %v", name, err == nil)
		}
	}
}

func FuzzHead(f *testing.F) {
	f.Add(head{memory: pageSize, runs: 1, state: 3}.encode())
	f.Add([]byte(magic))
	f.Fuzz(func(t *testing.T, data []byte) {
		h, err := decodeHead(data)
		if err != nil {
			return
		}
		if !bytes.Equal(h.encode()[:32], data[:32]) {
			t.Fatalf("%+v of %x", h, data)
		}
	})
}

func FuzzHolder(f *testing.F) {
	f.Add(holder{key: "k", image: 7, pid: 1, start: 2, fd: 3, inode: 4}.name())
	f.Add("k-zz-1-2-3-4")
	f.Fuzz(func(t *testing.T, name string) {
		h, ok := parseHolder(name)
		if !ok {
			return
		}
		again, ok := parseHolder(h.name())
		if !ok || again != h {
			t.Fatalf("%q gives %+v, and that %+v", name, h, again)
		}
	})
}
