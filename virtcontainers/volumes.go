package virtcontainers

import (
	"path"
	"regexp"
)

// SourceKind is what a bind's source is on the host.
type SourceKind int

// The kinds that the plan tells apart.
const (
	SourceOther SourceKind = iota
	SourceSocket
	SourceDirectory
)

// kubeletVolume is the path of a volume that kubelet changes while it is used: it
// exchanges the link `..data` in it for another. Who has such a volume waits for
// the change by inotify, which a share does not tell of.
var kubeletVolume = regexp.MustCompile(`/volumes/kubernetes\.io~(configmap|secret|projected|downward-api)/[^/]+$`)

// planVolume leaves to the agent a bind that the share cannot carry, and reports
// whether it is one.
func (p *Plan) planVolume(at Placement, i int, source string) bool {
	m := &p.Guest.Mounts[i]
	volume := Volume{Source: source, Target: path.Join(at.GuestVolumes, mountTarget(i))}
	switch kind := at.Sources[source]; {
	case kind == SourceSocket:
		p.Sockets = append(p.Sockets, volume)
	case kind == SourceDirectory && isReadOnly(m.Options) && kubeletVolume.MatchString(path.Clean(source)):
		p.Copies = append(p.Copies, volume)
	default:
		return false
	}
	m.Type, m.Source = "bind", volume.Target
	return true
}
