package agent

import (
	"net"

	"github.com/containerd/cgroups/v3/cgroup2/stats"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// networkStats are the counters of the guest's interfaces, which the containers
// of a pod share. The loopback is left out: what it counts never left the pod.
func networkStats() ([]*stats.NetworkStat, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	defer h.Close()
	if err := h.SetSocketTimeout(netlinkTime); err != nil {
		return nil, err
	}
	links, err := dump("interfaces", h.LinkList)
	if err != nil {
		return nil, err
	}
	return linkStats(links), nil
}

// linkStats translates what the kernel counts of each link.
func linkStats(links []netlink.Link) []*stats.NetworkStat {
	var list []*stats.NetworkStat
	for _, link := range links {
		attrs := link.Attrs()
		s := attrs.Statistics
		if attrs.Flags&net.FlagLoopback != 0 || s == nil {
			continue
		}
		list = append(list, &stats.NetworkStat{
			Name:    attrs.Name,
			RxBytes: s.RxBytes, RxPackets: s.RxPackets, RxErrors: s.RxErrors, RxDropped: s.RxDropped,
			TxBytes: s.TxBytes, TxPackets: s.TxPackets, TxErrors: s.TxErrors, TxDropped: s.TxDropped,
		})
	}
	return list
}
