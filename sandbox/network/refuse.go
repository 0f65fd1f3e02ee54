package network

import (
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// destination is what a header of a protocol has of where a packet goes.
type destination struct {
	protocol uint16
	keys     []netlink.TcU32Key
}

// noDestinations are the networks that no frame may be for: to a program that makes
// sockets of frames (pasta) they would be the host's own loopback.
func noDestinations() []destination {
	const at4, at6 = 16, 24 // where the headers have it
	return []destination{
		{unix.ETH_P_IP, []netlink.TcU32Key{{Mask: 0xff000000, Val: 127 << 24, Off: at4}}},
		{unix.ETH_P_IP, []netlink.TcU32Key{{Mask: 0xff000000, Val: 0, Off: at4}}},
		// ::/64, in which there are ::1, :: and what is an IPv4 address to a socket.
		{unix.ETH_P_IPV6, []netlink.TcU32Key{{Mask: 0xffffffff, Val: 0, Off: at6}, {Mask: 0xffffffff, Val: 0, Off: at6 + 4}}},
	}
}

// refuseLoopback sends a guest back what it has for loopback addresses: not every
// kernel has act_gact, which would drop it. The tap must have been redirected; its
// filters go with it.
func (t *Tap) refuseLoopback(h *netlink.Handle, tap netlink.Link) error {
	for i, d := range noDestinations() {
		err := h.FilterAdd(&netlink.U32{
			FilterAttrs: netlink.FilterAttrs{
				LinkIndex: tap.Attrs().Index,
				Parent:    netlink.HANDLE_MIN_INGRESS,
				Priority:  uint16(i + 1), // before the one that redirects
				Protocol:  d.protocol,
			},
			Sel:     &netlink.TcU32Sel{Flags: netlink.TC_U32_TERMINAL, Nkeys: uint8(len(d.keys)), Keys: d.keys},
			Actions: []netlink.Action{netlink.NewMirredAction(tap.Attrs().Index)},
		})
		if err != nil {
			return fmt.Errorf("keeping frames for loopback addresses from the link: %w", err)
		}
	}
	return nil
}
