package image

import (
	"bytes"
	"math/rand/v2"
	"os/exec"
	"reflect"
	"slices"
	"strings"
	"testing"
)

var sample = []Entry{
	{Name: "dev", Mode: TypeDir | 0o755},
	{Name: "dev/console", Mode: TypeChar | 0o600, Major: 5, Minor: 1},
	{Name: "empty", Mode: TypeRegular | 0o644},
	{Name: "init", Mode: TypeRegular | 0o755, Data: []byte("#!/bin/sh\n")},
	{Name: "link", Mode: TypeSymlink | 0o777, Data: []byte("init")},
}

func TestWriteThenReadGivesTheSame(t *testing.T) {
	var b bytes.Buffer
	if err := Write(&b, sample); err != nil {
		t.Fatal(err)
	}
	if b.Len()%blockSize != 0 {
		t.Errorf("archive of %d bytes is not padded to %d", b.Len(), blockSize)
	}
	got, err := Read(&b)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, sample) {
		t.Errorf("read %+v, wrote %+v", got, sample)
	}
}

func TestWriteDoesNotDependOnOrder(t *testing.T) {
	var want bytes.Buffer
	if err := Write(&want, sample); err != nil {
		t.Fatal(err)
	}
	for range 20 {
		shuffled := slices.Clone(sample)
		rand.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		var got bytes.Buffer
		if err := Write(&got, shuffled); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got.Bytes(), want.Bytes()) {
			t.Fatal("the same entries in another order made another archive")
		}
	}
}

func TestWriteRefusesWhatTheKernelWouldDrop(t *testing.T) {
	dir := Entry{Name: "d", Mode: TypeDir | 0o755}
	for name, entries := range map[string][]Entry{
		"absolute":       {{Name: "/init", Mode: TypeRegular}},
		"empty name":     {{Name: "", Mode: TypeRegular}},
		"leads out":      {dir, {Name: "d/../init", Mode: TypeRegular}},
		"no parent":      {{Name: "d/init", Mode: TypeRegular}},
		"parent is file": {{Name: "d", Mode: TypeRegular}, {Name: "d/init", Mode: TypeRegular}},
		"twice":          {dir, dir},
		"no type":        {{Name: "init", Mode: 0o755}},
		"trailer":        {{Name: trailer, Mode: TypeRegular}},
		"zero byte":      {{Name: "a\x00b", Mode: TypeRegular}},
	} {
		if err := Write(&bytes.Buffer{}, entries); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// The format is not ours: the tool that everyone else uses has to understand it.
func TestCpioUnderstandsTheArchive(t *testing.T) {
	cpio, err := exec.LookPath("cpio")
	if err != nil {
		t.Skip("no cpio here")
	}
	var b bytes.Buffer
	if err := Write(&b, sample); err != nil {
		t.Fatal(err)
	}
	list := exec.Command(cpio, "-itv", "--quiet", "-n")
	list.Stdin = &b
	out, err := list.CombinedOutput()
	if err != nil {
		t.Fatalf("cpio: %v: %s", err, out)
	}
	for _, want := range []string{"drwxr-xr-x   2 0        0", "crw-------   1 0        0          5,   1", "link -> init", "Jan  1  1970 init"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("cpio does not list %q:\n%s", want, out)
		}
	}
}

func TestReadRefusesATornArchive(t *testing.T) {
	var b bytes.Buffer
	if err := Write(&b, sample); err != nil {
		t.Fatal(err)
	}
	end := bytes.Index(b.Bytes(), []byte(trailer))
	for n := range end {
		if _, err := Read(bytes.NewReader(b.Bytes()[:n])); err == nil {
			t.Fatalf("no error for the first %d bytes", n)
		}
	}
}

func FuzzRead(f *testing.F) {
	var b bytes.Buffer
	if err := Write(&b, sample); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Add(bytes.Replace(b.Bytes(), []byte("0000000A"), []byte("3FFFFFFF"), 1))
	f.Fuzz(func(t *testing.T, archive []byte) {
		entries, err := Read(bytes.NewReader(archive))
		if err != nil {
			return
		}
		// What can be read and is fit to be written comes back the same.
		var again bytes.Buffer
		if Write(&again, entries) != nil {
			return
		}
		slices.SortStableFunc(entries, func(a, b Entry) int { return strings.Compare(a.Name, b.Name) })
		got, err := Read(&again)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, entries) {
			t.Fatalf("read %+v, wrote %+v", got, entries)
		}
	})
}
