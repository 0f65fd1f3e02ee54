package virtcontainers

import (
	"fmt"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// IDMap gives the files of a mount other owners than they have on the host, as a
// container wants it whose users are others'. The zero value gives them none.
type IDMap struct {
	// UIDs and GIDs map the ids of the files, as ContainerID, to those that the guest
	// sees, as HostID.
	UIDs, GIDs []specs.LinuxIDMapping
	// Recursive has what is mounted below mapped too.
	Recursive bool
}

// IsZero says that there is nothing to map.
func (m *IDMap) IsZero() bool { return m == nil || len(m.UIDs)+len(m.GIDs) == 0 }

// Owner is what the guest sees a file of an owner on the host to be of.
func (m *IDMap) Owner(uid, gid uint32) (uint32, uint32) {
	if m.IsZero() {
		return uid, gid
	}
	return mapID(m.UIDs, uid), mapID(m.GIDs, gid)
}

// mapID maps an id, or gives the one that stands for those that have no other.
func mapID(list []specs.LinuxIDMapping, id uint32) uint32 {
	const nobody = 65534
	for _, m := range list {
		if id >= m.ContainerID && uint64(id) < uint64(m.ContainerID)+uint64(m.Size) {
			return m.HostID + (id - m.ContainerID)
		}
	}
	return nobody
}

// takeIDMap takes the mapping of a mount out of the guest's configuration: the guest
// gets files that are mapped. It is nil for a mount that has none.
func takeIDMap(m *specs.Mount) (*IDMap, error) {
	if len(m.UIDMappings)+len(m.GIDMappings) == 0 {
		return nil, nil
	}
	if len(m.UIDMappings) == 0 || len(m.GIDMappings) == 0 {
		return nil, fmt.Errorf("the mount at %s has only one of uidMappings and gidMappings: %w", m.Destination, errdefs.ErrInvalidArgument)
	}
	ids := &IDMap{UIDs: m.UIDMappings, GIDs: m.GIDMappings, Recursive: slices.Contains(m.Options, "ridmap")}
	m.UIDMappings, m.GIDMappings = nil, nil
	m.Options = slices.DeleteFunc(m.Options, func(o string) bool { return o == "idmap" || o == "ridmap" })
	return ids, nil
}
