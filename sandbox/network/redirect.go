package network

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// filterPriority puts our filter behind any that somebody else has on the link, and
// tells it from them.
const filterPriority = 0x4879

// redirect lets every frame that arrives at one link leave by another.
func (t *Tap) redirect(h *netlink.Handle, from, to netlink.Link) error {
	ingress := &netlink.Ingress{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: from.Attrs().Index,
		Handle:    netlink.MakeHandle(0xffff, 0),
		Parent:    netlink.HANDLE_INGRESS,
	}}
	filter := redirection(from.Attrs().Index, to.Attrs().Index)
	err := h.QdiscAdd(ingress)
	switch {
	case err == nil:
		t.undo = append(t.undo, func(h *netlink.Handle) error { return h.QdiscDel(ingress) })
	case errors.Is(err, unix.EEXIST): // somebody's, or left by a shim that was killed
		if err := h.FilterDel(filter); err != nil && !isGone(err) {
			return fmt.Errorf("removing what redirected %s before: %w", from.Attrs().Name, err)
		}
	default:
		return fmt.Errorf("giving %s an ingress (does the kernel have sch_ingress?): %w", from.Attrs().Name, err)
	}
	if err := h.FilterAdd(filter); err != nil {
		return fmt.Errorf("redirecting %s to %s (does the kernel have cls_u32 and act_mirred?): %w", from.Attrs().Name, to.Attrs().Name, err)
	}
	t.undo = append(t.undo, func(h *netlink.Handle) error { return h.FilterDel(filter) })
	return nil
}

// redirection is the filter that takes all of a link's frames. It is u32's, which
// without a selector matches all: matchall says it better, but not every kernel has it.
func redirection(from, to int) netlink.Filter {
	return &netlink.U32{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: from,
			Parent:    netlink.HANDLE_MIN_INGRESS, // of an ingress as of a clsact
			Priority:  filterPriority,
			Protocol:  unix.ETH_P_ALL,
		},
		Actions: []netlink.Action{netlink.NewMirredAction(to)},
	}
}
