package virtcontainers

import (
	"math"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
)

func cpuLimits(quota int64, period, shares uint64, cpus string) *specs.LinuxResources {
	c := &specs.LinuxCPU{Cpus: cpus}
	if quota != 0 {
		c.Quota, c.Period = &quota, &period
	}
	if shares != 0 {
		c.Shares = &shares
	}
	return &specs.LinuxResources{CPU: c}
}

func TestWholeCPUs(t *testing.T) {
	const period = 100000
	for name, c := range map[string]struct {
		limits []*specs.LinuxResources
		want   uint64
	}{
		"none":                         {[]*specs.LinuxResources{nil, {}}, 0},
		"a tenth each of twenty":       {repeated(20, cpuLimits(10000, period, 0, "")), 2},
		"a third each of three":        {repeated(3, cpuLimits(33333, period, 0, "")), 1},
		"beyond all":                   {repeated(1, cpuLimits(math.MaxInt64, 1, 0, "")), maxCPUs},
		"a period beyond all":          {repeated(1, cpuLimits(math.MaxInt64, math.MaxUint64, 0, "")), 1},
		"a set":                        {repeated(1, cpuLimits(0, 0, 0, "0-2,5")), 4},
		"a set and a lower quota":      {repeated(1, cpuLimits(50000, period, 0, "0-3")), 1},
		"a set and a higher quota":     {repeated(1, cpuLimits(800000, period, 0, "0-3")), 4},
		"a set of its own, by kubelet": {repeated(2, cpuLimits(-1, period, 2048, "10-11")), 4},
		"what is left over":            {repeated(8, cpuLimits(0, 0, 2, "0-61")), 1},
		"part of what is left over":    {repeated(1, cpuLimits(0, 0, 1536, "0-61")), 2},
		"a set that is none":           {repeated(1, cpuLimits(0, 0, 0, "x")), 0},
	} {
		if got := wholeCPUs(c.limits); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
}

func repeated(n int, r *specs.LinuxResources) (all []*specs.LinuxResources) {
	for range n {
		all = append(all, r)
	}
	return all
}

func TestRoomFor(t *testing.T) {
	for _, c := range []struct{ count, most, want uint32 }{
		{1, 1, 1}, {1, 2, 2}, {1, 64, 8}, {4, 64, 8}, {5, 64, 16}, {8, 64, 16}, {9, 64, 32}, {40, 64, 64}, {200, 255, 255}, {3, 2, 3},
	} {
		if got := RoomFor(c.count, c.most); got != c.want {
			t.Errorf("RoomFor(%d, %d) = %d, want %d", c.count, c.most, got, c.want)
		}
	}
}

func TestCPUSets(t *testing.T) {
	for _, c := range []struct {
		set  string
		role Role
		want string
	}{
		{"", Alone, ""}, {"7", Alone, "0"}, {"2-3,8", Alone, "0-2"}, {"1,1,0-1", Alone, "0-1"}, {" 1, 2", Alone, "0-1"},
		{"2-3", PodMember, ""}, {"2-3", PodSandbox, ""},
	} {
		r := cpuLimits(0, 0, 0, c.set)
		notes, err := GuestResources(r, c.role)
		if err != nil || r.CPU.Cpus != c.want || len(notes) != 0 {
			t.Errorf("%q as %v is %q, %v, %q; want %q", c.set, c.role, r.CPU.Cpus, err, notes, c.want)
		}
	}
	for _, bad := range []string{",", "a", "1-", "-1", "3-2", "0-8192", "99999999999", "1;2"} {
		for _, role := range []Role{Alone, PodMember} {
			if _, err := GuestResources(cpuLimits(0, 0, 0, bad), role); !errdefs.IsInvalidArgument(err) {
				t.Errorf("%q: %v", bad, err)
			}
		}
	}
}

// TestUnappliedResources: what is not applied is told.
func TestUnappliedResources(t *testing.T) {
	weight := uint16(500)
	r := &specs.LinuxResources{
		CPU:            &specs.LinuxCPU{Mems: "0"},
		BlockIO:        &specs.LinuxBlockIO{Weight: &weight, WeightDevice: []specs.LinuxWeightDevice{{}}},
		HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "2MB", Limit: 4 << 20}, {Pagesize: "1GB"}},
	}
	notes, err := GuestResources(r, Alone)
	if err != nil || r.CPU.Mems != "" || r.BlockIO != nil || len(r.HugepageLimits) != 2 {
		t.Errorf("it is %+v, %v", r, err)
	}
	for _, what := range []string{"cpu.mems", "a device's limit", "blockIO.weight", "pages of 2MB"} {
		if !strings.Contains(strings.Join(notes, "\n"), what) {
			t.Errorf("nothing of %s in %q", what, notes)
		}
	}
	if len(notes) != 4 {
		t.Errorf("notes %q", notes)
	}
}

func TestChangedCPU(t *testing.T) {
	now := cpuLimits(100000, 100000, 1024, "0-1").CPU
	for name, c := range map[string]struct {
		update *specs.LinuxCPU
		want   uint64
	}{
		"nothing":    {nil, 1000},
		"quota":      {cpuLimits(150000, 100000, 0, "").CPU, 1500},
		"no quota":   {cpuLimits(-1, 100000, 0, "").CPU, 1000},
		"the set":    {cpuLimits(-1, 100000, 4096, "0-3").CPU, 4000},
		"the shares": {&specs.LinuxCPU{Shares: new(uint64)}, 1000},
	} {
		if got := milliCPUs(changedCPU(now, c.update)); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
	if now.Cpus != "0-1" || *now.Quota != 100000 {
		t.Errorf("what was is %+v now", now)
	}
}

func FuzzCountCPUs(f *testing.F) {
	f.Add("0-2,5")
	f.Add("1-")
	f.Fuzz(func(t *testing.T, list string) {
		if n, err := countCPUs(list); n > maxCPUs || (err != nil) != (n == 0 && list != "") {
			t.Fatalf("%q is %d, %v", list, n, err)
		}
	})
}
