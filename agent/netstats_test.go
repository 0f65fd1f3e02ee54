package agent

import (
	"net"
	"testing"

	"github.com/containerd/cgroups/v3/cgroup2/stats"
	"github.com/vishvananda/netlink"
	"google.golang.org/protobuf/proto"
)

func TestCountersOfLinksWithoutTheLoopback(t *testing.T) {
	counted := &netlink.LinkStatistics{RxBytes: 1, RxPackets: 2, RxErrors: 3, RxDropped: 4, TxBytes: 5, TxPackets: 6, TxErrors: 7, TxDropped: 8}
	list := linkStats([]netlink.Link{
		&netlink.Device{LinkAttrs: netlink.LinkAttrs{Name: "lo", Flags: net.FlagLoopback, Statistics: counted}},
		&netlink.Device{LinkAttrs: netlink.LinkAttrs{Name: "eth0", Statistics: counted}},
		&netlink.Device{LinkAttrs: netlink.LinkAttrs{Name: "uncounted"}},
	})
	want := &stats.NetworkStat{Name: "eth0", RxBytes: 1, RxPackets: 2, RxErrors: 3, RxDropped: 4, TxBytes: 5, TxPackets: 6, TxErrors: 7, TxDropped: 8}
	if len(list) != 1 || !proto.Equal(list[0], want) {
		t.Errorf("got %v, want %v alone", list, want)
	}
}
