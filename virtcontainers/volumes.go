package virtcontainers

import (
	"path"
	"regexp"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
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

// BindSources are the absolute paths of what a configuration binds and the host
// has, for Placement.Sources.
func BindSources(spec *specs.Spec, bundle string) []string {
	var sources []string
	for _, m := range spec.Mounts {
		if source := bindSource(bundle, m); isBind(m) && !isGuestTree(m.Source) && !slices.Contains(sources, source) {
			sources = append(sources, source)
		}
	}
	return sources
}

func bindSource(bundle string, m specs.Mount) string {
	if path.IsAbs(m.Source) {
		return m.Source
	}
	return path.Join(bundle, m.Source)
}

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
