package report

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hyperhq/hyper/test/bench/stats"
)

var (
	whole = Quantity{Name: "RunWhole", Title: "a whole run", Unit: "ms"}
	rate  = Quantity{Name: "Stdout", Title: "standard output", Unit: "MB/s"}
	up    = Quantity{Name: "ParallelUp", Title: "at once", Unit: "ms"}
	slope = Quantity{Name: "SandboxPSS", Title: "each further sandbox", Unit: "MB"}
)

// measured is a report with known answers.
func measured() *Report {
	begin := time.Date(2026, 11, 22, 6, 0, 0, 0, time.UTC)
	r := &Report{
		Machine: Machine{CPUs: 2, CPU: "A Processor", MemoryMiB: 4096, Kernel: "6.1", LoadBegin: 0.1, LoadEnd: 2},
		Accel:   "tcg", Versions: []Version{{"runc", "1.1.5"}, {"QEMU", "7.2"}},
		Contestants: []Contestant{{Name: "hyper", About: "as it is"}, {Name: "small", About: "less", Config: "[a]\nb = 1\n"}},
		Begin:       begin, End: begin.Add(90 * time.Second), Command: "bench -n 3",
	}
	for i := range 3 {
		r.Of(whole, "hyper", 0).Add(float64(300 + 30*i))
		r.Of(whole, "runc", 0).Add(float64(100 + 10*i))
	}
	r.Of(rate, "hyper", 0).Add(500)
	r.Of(up, "hyper", 10).Add(1000.25)
	r.Of(slope, "hyper", 0).Add(30)
	r.Of(Quantity{Name: "Nothing"}, "hyper", 0)
	r.Note("of %s", "note")
	r.Note("of %s", "note")
	r.Stacks = []Stack{{Of: "hyper", Steps: []Step{{Name: "machine", Values: []float64{10, 30, 20}}}}}
	r.Finish()
	return r
}

func promised() []Figure {
	over := Ref{Quantity: "RunWhole", Of: "runc"}
	ours := Ref{Quantity: "RunWhole", Of: "hyper"}
	return []Figure{
		{What: "reached", Ours: ours, Over: over, Must: 4, Aim: 3},
		{What: "kept", Ours: ours, Over: over, Must: 3, Aim: 2},
		{What: "broken", Ours: ours, Over: over, Must: 2, Aim: 1},
		{What: "at least, kept", Least: true, Ours: ours, Over: over, Must: 3, Aim: 10},
		{What: "at least, broken", Least: true, Ours: ours, Over: over, Must: 5, Aim: 10},
		{What: "no ratio", Ours: Ref{Quantity: "SandboxPSS", Of: "hyper"}, Must: 40, Aim: 25, Unit: "MB"},
		{What: "nobody measured ours", Ours: Ref{Quantity: "RunWhole", Of: "pool"}, Over: over, Must: 1},
		{What: "nobody measured theirs", Ours: ours, Over: Ref{Quantity: "RunWhole", Of: "pool"}, Must: 1},
		{What: "other number", Ours: Ref{Quantity: "ParallelUp", Of: "hyper", At: 100}, Must: 1},
	}
}

func TestJudge(t *testing.T) {
	verdicts := measured().Judge(promised())
	want := []string{Reached, Met, Missed, Met, Missed, Met, NotMeasured, NotMeasured, NotMeasured}
	for i, v := range verdicts {
		if v.Outcome != want[i] {
			t.Errorf("%s: %q, want %q", v.What, v.Outcome, want[i])
		}
		if (v.Measured == nil) != (want[i] == NotMeasured) {
			t.Errorf("%s: measured %v", v.What, v.Measured)
		}
	}
	if got := *verdicts[0].Measured; got != (stats.Ratio{Value: 3, Low: 3, High: 3}) {
		t.Errorf("the ratio is %+v, want 3", got)
	}
	if got := verdicts[5].Measured.Value; got != 30 {
		t.Errorf("the slope is %v, want 30", got)
	}
}

func TestCompare(t *testing.T) {
	r := measured()
	r.Of(whole, "floor", 0).Add(1)
	boot := Quantity{Name: "Boot", Unit: "ms"}
	r.Of(boot, "cold", 0).Add(20)
	r.Of(boot, "floor", 0).Add(10)
	r.Of(slope, "runc", 0).Add(0) // 30 over nothing is no ratio
	compared := r.Compare()
	if len(compared) != 2 {
		t.Fatalf("%d comparisons, want 2: %+v", len(compared), compared)
	}
	if c := compared[0]; c.Of != "hyper" || c.Over != "runc" || c.Ratio.Value != 3 {
		t.Errorf("a run is compared as %+v", c)
	}
	if c := compared[1]; c.Of != "cold" || c.Over != "floor" || c.Ratio.Value != 2 {
		t.Errorf("a boot is compared as %+v", c)
	}
}

func TestBenchmarks(t *testing.T) {
	want := `goos: linux
goarch: amd64
cpu: A Processor
kernel: 6.1
accel: tcg
Unit MB/s better=higher
Unit MB better=lower
BenchmarkRunWhole/of=hyper-2	1	300000000 ns/op
BenchmarkRunWhole/of=hyper-2	1	330000000 ns/op
BenchmarkRunWhole/of=hyper-2	1	360000000 ns/op
BenchmarkRunWhole/of=runc-2	1	100000000 ns/op
BenchmarkRunWhole/of=runc-2	1	110000000 ns/op
BenchmarkRunWhole/of=runc-2	1	120000000 ns/op
BenchmarkStdout/of=hyper-2	1	500 MB/s
BenchmarkParallelUp/of=hyper/n=10-2	1	1000250000 ns/op
BenchmarkSandboxPSS/of=hyper-2	1	30 MB
`
	if got := measured().Benchmarks(); got != want {
		t.Errorf("the benchmarks are\n%s\nwant\n%s", got, want)
	}
}

func TestMarkdown(t *testing.T) {
	got := measured().Markdown(promised())
	for _, line := range []string{
		"# Benchmark of 2026-11-22 06:00 UTC",
		"- Machine: 2 CPUs (A Processor), 4096 MiB of memory, Linux 6.1",
		"- Acceleration: none, QEMU emulates the processor (TCG)",
		"- Versions: runc 1.1.5; QEMU 7.2",
		"- `hyper`: as it is",
		"- `small`: less, `[a]; b = 1`",
		"- Load average: 0.10 at the begin, 2.00 at the end, 1m30s later",
		"- **Note**: of note",
		"| kept | ≤ 3 | ≤ 2 | 3 | met |",
		"| at least, broken | ≥ 5 | ≥ 10 | 3 | missed |",
		"| no ratio | ≤ 40 MB | ≤ 25 MB | 30 MB | met |",
		"| nobody measured ours | ≤ 1 | ≤ 0 | – | not measured |",
		"| a whole run | hyper | 3 | 330 ms | 306–354 | 3 × runc |",
		"| a whole run | runc | 3 | 110 ms | 102–118 |  |",
		"| at once, 10 | hyper | 1 | 1000 ms | 1000–1000 |  |",
		"| hyper | machine | 3 | 20 ms | 12–28 |",
	} {
		if strings.Count(got, line+"\n") != 1 {
			t.Errorf("not once in the report: %s", line)
		}
	}
	if strings.Contains(got, "Nothing") {
		t.Error("the report has a row of what has no value")
	}
	if t.Failed() {
		t.Log(got)
	}
}

func TestRatioHasBounds(t *testing.T) {
	if got, want := ratio(stats.Ratio{Value: 1.8333, Low: 1.7, High: 1234.5}), "1.83 (1.7–1234)"; got != want {
		t.Errorf("ratio is %q, want %q", got, want)
	}
}

func TestWrite(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "bench")
	r := measured()
	if err := r.Write(dir, promised()); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"bench.md": r.Markdown(promised()), "bench.txt": r.Benchmarks()} {
		if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(got) != want {
			t.Errorf("%s: %v, or not what was made", name, err)
		}
	}
	data, err := os.ReadFile(filepath.Join(dir, "bench.json"))
	if err != nil {
		t.Fatal(err)
	}
	var read struct {
		Report
		Figures []struct{ Outcome string }
	}
	if err := json.Unmarshal(data, &read); err != nil {
		t.Fatal(err)
	}
	if s := read.find("RunWhole", "hyper", 0); s == nil || len(s.Values) != 3 || s.Median != 330 {
		t.Errorf("the JSON has %+v of the runs", s)
	}
	if len(read.Figures) != len(promised()) || read.Figures[1].Outcome != Met {
		t.Errorf("the JSON has the figures %+v", read.Figures)
	}
}

func TestThisMachine(t *testing.T) {
	m, err := ThisMachine()
	if err != nil {
		t.Fatal(err)
	}
	if m.CPUs < 1 || m.MemoryMiB == 0 || m.Kernel == "" {
		t.Errorf("this machine is %+v", m)
	}
}

func TestFinishPutsTogether(t *testing.T) {
	r := &Report{}
	for _, of := range []string{"hyper", "runc"} {
		for _, s := range []*Series{r.Of(up, of, 10), r.Of(up, of, 1), r.Of(whole, of, 0)} {
			s.Add(1)
		}
	}
	r.Finish()
	var order []string
	for _, s := range r.Series {
		order = append(order, fmt.Sprint(s.Name, s.At, s.Of))
	}
	want := []string{
		"ParallelUp1hyper", "ParallelUp1runc", "ParallelUp10hyper", "ParallelUp10runc", "RunWhole0hyper", "RunWhole0runc",
	}
	if !slices.Equal(order, want) {
		t.Errorf("the order is %q, want %q", order, want)
	}
}
