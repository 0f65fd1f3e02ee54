package report

import (
	"fmt"
	"runtime"
	"strconv"
	"strings"
)

// Benchmarks is the report in the format of Go's benchmarks, one line a value, so
// that benchstat compares runs (`benchstat old.txt new.txt`) or contestants
// (`benchstat -col /of bench.txt`).
func (r *Report) Benchmarks() string {
	var b strings.Builder
	fmt.Fprintf(&b, "goos: %s\ngoarch: %s\ncpu: %s\nkernel: %s\naccel: %s\n", runtime.GOOS, runtime.GOARCH, r.Machine.CPU, r.Machine.Kernel, r.Accel)
	b.WriteString("Unit MB/s better=higher\nUnit MB better=lower\n")
	for _, s := range r.Series {
		name := "Benchmark" + s.Name + "/of=" + s.Of
		if s.At > 0 {
			name += "/n=" + strconv.Itoa(s.At)
		}
		for _, v := range s.Values {
			value, unit := goUnit(v, s.Unit)
			fmt.Fprintf(&b, "%s-%d\t1\t%s %s\n", name, r.Machine.CPUs, strconv.FormatFloat(value, 'f', -1, 64), unit)
		}
	}
	return b.String()
}

// goUnit is a value in the unit that Go's benchmarks have for its kind.
func goUnit(v float64, unit string) (float64, string) {
	if unit == "ms" {
		return float64(int64(v*1e6 + 0.5)), "ns/op"
	}
	return v, unit
}
