package virtcontainers

import (
	"slices"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

func TestPlanOfVolumes(t *testing.T) {
	const cfg = "/var/lib/kubelet/pods/x/volumes/kubernetes.io~configmap/cfg"
	for name, c := range map[string]struct {
		source  string
		kind    SourceKind
		options []string
		want    string // socket, copy, memory or share
	}{
		"socket":             {"/run/api.sock", SourceSocket, []string{"rbind"}, "socket"},
		"read-only socket":   {"/run/api.sock", SourceSocket, []string{"bind", "ro"}, "socket"},
		"relative socket":    {"api.sock", SourceSocket, []string{"bind"}, "socket"},
		"file":               {"/run/api.sock", SourceOther, []string{"rbind"}, "share"},
		"config map":         {cfg, SourceDirectory, []string{"rbind", "ro"}, "copy"},
		"with a slash":       {cfg + "/", SourceDirectory, []string{"rbind", "ro"}, "copy"},
		"secret":             {"/pods/x/volumes/kubernetes.io~secret/s", SourceDirectory, []string{"rbind", "ro"}, "copy"},
		"projected":          {"/pods/x/volumes/kubernetes.io~projected/s", SourceDirectory, []string{"rbind", "ro"}, "copy"},
		"downward":           {"/pods/x/volumes/kubernetes.io~downward-api/s", SourceDirectory, []string{"rbind", "ro"}, "copy"},
		"writable":           {cfg, SourceDirectory, []string{"rbind", "rw"}, "share"},
		"a file of it":       {cfg, SourceOther, []string{"rbind", "ro"}, "share"},
		"below it":           {cfg + "/dir", SourceDirectory, []string{"rbind", "ro"}, "share"},
		"another volume":     {"/pods/x/volumes/kubernetes.io~empty-dir/e", SourceDirectory, []string{"rbind", "ro"}, "share"},
		"subpath":            {"/pods/x/volume-subpaths/cfg/c/0", SourceOther, []string{"rbind", "ro"}, "share"},
		"the guest's own":    {"/dev/log", SourceSocket, []string{"bind"}, "guest"},
		"in memory":          {"/pods/x/volumes/kubernetes.io~empty-dir/m", SourceDirectory, []string{"rbind", "rw"}, "memory"},
		"missing, so unseen": {"/not/there", SourceOther, []string{"bind"}, "share"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSpec(func(s *specs.Spec) {
				s.Mounts = []specs.Mount{{Destination: "/d", Type: "bind", Source: c.source, Options: c.options}}
			})
			at := at
			at.GuestVolumes, at.Sources = "/volumes/c1", map[string]SourceKind{}
			for _, source := range BindSources(s, at.Bundle) {
				at.Sources[source] = c.kind
			}
			at.MemoryVolumes = map[string]MemoryVolume{"/pods/x/volumes/kubernetes.io~empty-dir/m": {Name: "m"}}
			p, err := NewPlan(s, at)
			if err != nil {
				t.Fatal(err)
			}
			shared := slices.ContainsFunc(p.Mounts, func(m HostMount) bool { return m.Target == "mounts/0" })
			got := p.Guest.Mounts[0]
			want := map[string]string{"socket": "/volumes/c1/mounts/0", "copy": "/volumes/c1/mounts/0", "memory": "/volumes/c1/mounts/0", "share": "/guest/c1/mounts/0", "guest": c.source}[c.want]
			if got.Source != want || got.Type != "bind" || !slices.Equal(got.Options, c.options) {
				t.Errorf("the guest mounts %+v, want %s", got, want)
			}
			if len(p.Sockets) != count(c.want == "socket") || len(p.Copies) != count(c.want == "copy") || len(p.Memory) != count(c.want == "memory") || shared != (c.want == "share") {
				t.Errorf("sockets %v, copies %v, mounts %v, want a %s", p.Sockets, p.Copies, p.Mounts, c.want)
			}
		})
	}
}

func TestEmptyDirOf(t *testing.T) {
	const volume = "/pods/x/volumes/kubernetes.io~empty-dir/v"
	for source, want := range map[string]string{
		volume:                                  volume,
		volume + "/":                            volume,
		"/pods/x/volume-subpaths/v/c/0":         volume,
		volume + "/below":                       "",
		"/pods/x/volumes/kubernetes.io~csi/v":   "",
		"/pods/x/volume-subpaths/v/c":           "",
		"/pods/x/volume-subpaths/v/c/0/further": "",
		"/kubernetes.io~empty-dir/v":            "",
		"/":                                     "",
		"":                                      "",
	} {
		if got := EmptyDirOf(source); got != want {
			t.Errorf("%q is of %q, want %q", source, got, want)
		}
	}
}

func count(one bool) int {
	if one {
		return 1
	}
	return 0
}
