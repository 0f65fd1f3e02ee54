package virtcontainers

import (
	"path"
	"strings"
)

// SourceKind is what a bind's source is on the host.
type SourceKind int

// The kinds that the plan tells apart.
const (
	SourceOther SourceKind = iota
	SourceSocket
	SourceDirectory
)

// MemoryVolume is a directory of a volume that is in memory: a part of an emptyDir.
type MemoryVolume struct {
	// Name is the same for all parts of one volume. The guest is not told it.
	Name string
	// Part is the directory's path in the volume, empty for all of it.
	Part string
	// Size is what the volume holds, in bytes; 0 is no limit.
	Size uint64
	// Root and Directory are the attributes of the volume's root, and of the part.
	Root, Directory Attributes
}

// Attributes are those of a directory. Mode is as in chmod(2).
type Attributes struct{ Mode, UID, GID uint32 }

// PlannedMemory is a MemoryVolume, and the path at which the guest has it.
type PlannedMemory struct {
	MemoryVolume
	Target string
}

// planVolume leaves to the agent a bind that the share cannot carry, and reports
// whether it is one.
func (p *Plan) planVolume(at Placement, i int, source string, ids *IDMap) bool {
	m := &p.Guest.Mounts[i]
	volume := Volume{Source: source, Target: path.Join(at.GuestVolumes, mountTarget(i)), IDs: ids}
	memory, inMemory := at.MemoryVolumes[source]
	switch kind := at.Sources[source]; {
	case inMemory:
		for _, a := range []*Attributes{&memory.Root, &memory.Directory} {
			a.UID, a.GID = ids.Owner(a.UID, a.GID)
		}
		p.Memory = append(p.Memory, PlannedMemory{memory, volume.Target})
	case kind == SourceSocket:
		p.Sockets = append(p.Sockets, volume)
	case kind == SourceDirectory && isReadOnly(m.Options) && isKubeletVolume(source):
		p.Copies = append(p.Copies, volume)
	default:
		return false
	}
	m.Type, m.Source = "bind", volume.Target
	return true
}

// EmptyDirOf gives the path of the emptyDir that a path names, or of which it names a
// part, by where kubelet has these; else nothing.
func EmptyDirOf(source string) string {
	const plugin = "kubernetes.io~empty-dir"
	source = path.Clean(source)
	if dir := path.Dir(source); path.Base(dir) == plugin && path.Base(path.Dir(dir)) == "volumes" {
		return source
	}
	// …/volume-subpaths/<volume>/<container>/<number>
	volume := path.Dir(path.Dir(source))
	if subpaths := path.Dir(volume); path.Base(subpaths) == "volume-subpaths" {
		return path.Join(path.Dir(subpaths), "volumes", plugin, path.Base(volume))
	}
	return ""
}

// isKubeletVolume reports whether a path is that of a volume that kubelet changes
// while it is used: it exchanges the link `..data` in it for another. Who has such
// a volume waits for the change by inotify, which a share does not tell of.
func isKubeletVolume(source string) bool {
	volumes, plugin := path.Split(path.Dir(path.Clean(source)))
	if !strings.HasSuffix(volumes, "/volumes/") {
		return false
	}
	switch plugin {
	case "kubernetes.io~configmap", "kubernetes.io~secret", "kubernetes.io~projected", "kubernetes.io~downward-api":
		return true
	}
	return false
}
