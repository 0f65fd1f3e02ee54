package agent

import (
	"fmt"

	"github.com/containerd/cgroups/v3/cgroup2/stats"
	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/fs2"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// stats returns the container's io.containerd.cgroups.v2.Metrics, encoded.
func (c *container) stats() ([]byte, error) {
	data, err := c.cgroup.stats()
	if err != nil {
		return nil, fmt.Errorf("statistics of container %s: %w", c.id, err)
	}
	return data, nil
}

// guestStats are the numbers of all of the guest, as those of a container.
func guestStats() ([]byte, error) {
	// The root has no memory controller; libcontainer then reads /proc/meminfo.
	data, err := cgroup(cgroupRoot).stats()
	if err != nil {
		return nil, fmt.Errorf("statistics of the guest: %w", err)
	}
	return data, nil
}

func (c cgroup) stats() ([]byte, error) {
	manager, err := fs2.NewManager(&cgroups.Cgroup{}, string(c))
	if err != nil {
		return nil, err
	}
	st, err := manager.GetStats()
	if err != nil {
		return nil, err
	}
	m := metrics(st)
	m.MemoryEvents = c.memoryEvents()
	if m.Network, err = networkStats(); err != nil {
		return nil, fmt.Errorf("reading the counters of the network: %w", err)
	}
	return proto.Marshal(m)
}

func (c cgroup) memoryEvents() *stats.MemoryEvents {
	events := &stats.MemoryEvents{}
	fillByName(events, c.keyed("memory.events"))
	return events
}

// fillByName sets the fields of m which are named as the kernel names them.
func fillByName(m proto.Message, values map[string]uint64) {
	r := m.ProtoReflect()
	fields := r.Descriptor().Fields()
	for name, v := range values {
		fd := fields.ByName(protoreflect.Name(name))
		if fd != nil && fd.Kind() == protoreflect.Uint64Kind {
			r.Set(fd, protoreflect.ValueOfUint64(v))
		}
	}
}

// metrics translates libcontainer's statistics of a v2 cgroup.
func metrics(st *cgroups.Stats) *stats.Metrics {
	cpu := st.CpuStats
	return &stats.Metrics{
		Pids: &stats.PidsStat{Current: st.PidsStats.Current, Limit: st.PidsStats.Limit},
		CPU: &stats.CPUStat{
			UsageUsec:     cpu.CpuUsage.TotalUsage / 1000,
			UserUsec:      cpu.CpuUsage.UsageInUsermode / 1000,
			SystemUsec:    cpu.CpuUsage.UsageInKernelmode / 1000,
			NrPeriods:     cpu.ThrottlingData.Periods,
			NrThrottled:   cpu.ThrottlingData.ThrottledPeriods,
			ThrottledUsec: cpu.ThrottlingData.ThrottledTime / 1000,
			NrBursts:      cpu.BurstData.BurstsPeriods,
			BurstUsec:     cpu.BurstData.BurstTime / 1000,
			PSI:           psi(cpu.PSI),
		},
		Memory:  memoryStat(&st.MemoryStats),
		Io:      &stats.IOStat{Usage: ioEntries(&st.BlkioStats), PSI: psi(st.BlkioStats.PSI)},
		Hugetlb: hugetlbStats(st.HugetlbStats),
	}
}

func memoryStat(m *cgroups.MemoryStats) *stats.MemoryStat {
	s := &stats.MemoryStat{}
	fillByName(s, m.Stats)
	// These two have become one value for each kind of page.
	s.WorkingsetRefault = m.Stats["workingset_refault_anon"] + m.Stats["workingset_refault_file"]
	s.WorkingsetActivate = m.Stats["workingset_activate_anon"] + m.Stats["workingset_activate_file"]
	s.Usage, s.UsageLimit, s.MaxUsage = m.Usage.Usage, m.Usage.Limit, m.Usage.MaxUsage
	swap := m.SwapOnlyUsage
	s.SwapUsage, s.SwapLimit, s.SwapMaxUsage = swap.Usage, swap.Limit, swap.MaxUsage
	s.PSI = psi(m.PSI)
	return s
}

func psi(p *cgroups.PSIStats) *stats.PSIStats {
	if p == nil {
		return nil
	}
	data := func(d cgroups.PSIData) *stats.PSIData {
		return &stats.PSIData{Avg10: d.Avg10, Avg60: d.Avg60, Avg300: d.Avg300, Total: d.Total}
	}
	return &stats.PSIStats{Some: data(p.Some), Full: data(p.Full)}
}

// ioEntries gathers the values of each block device.
func ioEntries(b *cgroups.BlkioStats) []*stats.IOEntry {
	var list []*stats.IOEntry
	byDevice := map[[2]uint64]*stats.IOEntry{}
	entry := func(e cgroups.BlkioStatEntry) *stats.IOEntry {
		key := [2]uint64{e.Major, e.Minor}
		if byDevice[key] == nil {
			byDevice[key] = &stats.IOEntry{Major: e.Major, Minor: e.Minor}
			list = append(list, byDevice[key])
		}
		return byDevice[key]
	}
	for _, e := range b.IoServiceBytesRecursive {
		switch e.Op {
		case "Read":
			entry(e).Rbytes = e.Value
		case "Write":
			entry(e).Wbytes = e.Value
		}
	}
	for _, e := range b.IoServicedRecursive {
		switch e.Op {
		case "Read":
			entry(e).Rios = e.Value
		case "Write":
			entry(e).Wios = e.Value
		}
	}
	return list
}

func hugetlbStats(h map[string]cgroups.HugetlbStats) []*stats.HugeTlbStat {
	var list []*stats.HugeTlbStat
	for size, s := range h {
		list = append(list, &stats.HugeTlbStat{Current: s.Usage, Max: s.MaxUsage, Failcnt: s.Failcnt, Pagesize: size})
	}
	return list
}
