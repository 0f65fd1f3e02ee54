package volume

import (
	"io/fs"
	"maps"
	"path"
	"slices"

	"google.golang.org/protobuf/types/known/timestamppb"

	agentv1 "github.com/hyperhq/hyper/proto/hyper/agent/v1"
)

// temporary ends the name of what is to be renamed over another. Kubelet's own is
// so for the link ..data.
const temporary = "_tmp"

// step is one change. That of a file has no data yet, which is that of the file
// from in the volume.
type step struct {
	*agentv1.VolumeChange
	from string
}

// steps make one tree of another.
func steps(have, want tree) []step {
	s := stepper{have: have, want: want}
	for _, name := range slices.Sorted(maps.Keys(want)) {
		old, there := have[name]
		s.make(name, old, want[name], there)
	}
	s.removeRest()
	return slices.Concat(s.removedFirst, s.directories, s.files, s.links, s.newLinks, s.removed, s.attributes)
}

// stepper holds the steps by when they are made.
type stepper struct {
	have, want tree

	removedFirst []step // what gives its name to another kind
	directories  []step
	files        []step
	links        []step // that are there and change
	newLinks     []step
	removed      []step
	attributes   []step // of directories, which earlier steps change
}

// make makes an entry of another, or of nothing.
func (s *stepper) make(name string, old, e entry, there bool) {
	if there && old == e {
		return
	}
	if there && old.kind != e.kind {
		s.removedFirst = append(s.removedFirst, remove(name))
		there = false
	}
	made := e.step(name)
	switch e.kind {
	case fs.ModeDir:
		if !there {
			s.directories = append(s.directories, made)
		}
		s.attributes = append(s.attributes, made)
	case fs.ModeSymlink:
		if there && old.linkTarget == e.linkTarget && old.uid == e.uid && old.gid == e.gid {
			return
		}
		if !there {
			s.newLinks = append(s.newLinks, made)
			return
		}
		s.links = append(s.links, s.replace(made)...)
	default:
		if !there {
			s.files = append(s.files, made)
			return
		}
		s.files = append(s.files, s.replace(made)...)
	}
}

// removeRest removes what is not wanted: links first, which may lead to others.
func (s *stepper) removeRest() {
	have, want := s.have, s.want
	var rest []step
	for _, name := range slices.Sorted(maps.Keys(have)) {
		if _, wanted := want[name]; wanted || name == "." {
			continue
		}
		if _, wanted := want[path.Dir(name)]; !wanted {
			continue // it goes with its directory
		}
		if have[name].kind == fs.ModeSymlink {
			s.removed = append(s.removed, remove(name))
		} else {
			rest = append(rest, remove(name))
		}
	}
	s.removed = append(s.removed, rest...)
}

// step makes the entry where nothing is.
func (e entry) step(name string) step {
	kind := agentv1.VolumeChange_FILE
	switch e.kind {
	case fs.ModeDir:
		kind = agentv1.VolumeChange_DIRECTORY
	case fs.ModeSymlink:
		kind = agentv1.VolumeChange_LINK
	}
	return step{&agentv1.VolumeChange{
		Kind: kind, Path: name, Target: e.linkTarget, Mode: e.mode, Uid: e.uid, Gid: e.gid,
		Modified: timestamppb.New(e.modified),
	}, name}
}

// replace puts what a step makes in the place of what is there, at once.
func (s *stepper) replace(made step) []step {
	name := made.Path
	for taken := true; taken; {
		made.Path += temporary
		_, here := s.have[made.Path]
		_, there := s.want[made.Path]
		taken = here || there
	}
	rename := &agentv1.VolumeChange{Kind: agentv1.VolumeChange_RENAME, Path: made.Path, Target: name}
	return []step{made, {rename, ""}}
}

func remove(name string) step {
	return step{&agentv1.VolumeChange{Kind: agentv1.VolumeChange_REMOVE, Path: name}, ""}
}
