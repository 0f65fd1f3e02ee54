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

// planVolume leaves to the agent a bind that the share cannot carry, and reports
// whether it is one.
func (p *Plan) planVolume(at Placement, i int, source string) bool {
	m := &p.Guest.Mounts[i]
	volume := Volume{Source: source, Target: path.Join(at.GuestVolumes, mountTarget(i))}
	switch kind := at.Sources[source]; {
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
