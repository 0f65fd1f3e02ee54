package cgroup

import (
	"os"
	"path/filepath"
	"strings"
)

// delegate has the groups above one hand all that they have on to it. In version 2 a
// group has no controllers but those: without them nothing is accounted to it, and
// nothing can be limited. Where a group does not hand one on, which is so if processes
// are in it, those below go without.
func (h hierarchy) delegate(name string) {
	dir := h.mount
	for element := range strings.SplitSeq(strings.Trim(name, "/"), "/") {
		has, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
		if err != nil {
			return
		}
		// One by one: of several that are written at once none is taken if one cannot be.
		for controller := range strings.FieldsSeq(string(has)) {
			_ = set(filepath.Join(dir, "cgroup.subtree_control"), "+"+controller)
		}
		dir = filepath.Join(dir, element)
	}
}
