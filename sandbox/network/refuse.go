package network

import (
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// noDestinations are the IPv4 networks that no frame may be for: to a program that
// makes sockets of frames (pasta) they would be the host's own loopback.
func noDestinations() []netlink.TcU32Key {
	const destination = 16 // where an IPv4 header has it
	return []netlink.TcU32Key{
		{Mask: 0xff000000, Val: 127 << 24, Off: destination},
		{Mask: 0xff000000, Val: 0, Off: destination},
	}
}

// refuseLoopback sends a guest back what it has for loopback addresses: not every
// kernel has act_gact, which would drop it. The tap must have been redirected; its
// filters go with it.
func (t *Tap) refuseLoopback(h *netlink.Handle, tap netlink.Link) error {
	for i, key := range noDestinations() {
		err := h.FilterAdd(&netlink.U32{
			FilterAttrs: netlink.FilterAttrs{
				LinkIndex: tap.Attrs().Index,
				Parent:    netlink.HANDLE_MIN_INGRESS,
				Priority:  uint16(i + 1), // before the one that redirects
				Protocol:  unix.ETH_P_IP,
			},
			Sel:     &netlink.TcU32Sel{Flags: netlink.TC_U32_TERMINAL, Nkeys: 1, Keys: []netlink.TcU32Key{key}},
			Actions: []netlink.Action{netlink.NewMirredAction(tap.Attrs().Index)},
		})
		if err != nil {
			return fmt.Errorf("keeping frames for loopback addresses from the link: %w", err)
		}
	}
	return nil
}
