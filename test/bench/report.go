package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Pair is a quantity of Hyper's beside that which it is compared with; both were
// measured by turns, so that what else the machine does meets both.
type Pair struct {
	Hyper *Series `json:"hyper"`
	Other *Series `json:"other"`
	Ratio float64 `json:"ratio"` // of the medians
}

// Report is all that was measured.
type Report struct {
	When       time.Time `json:"when"`
	HostKernel string    `json:"host_kernel"`
	Kernel     string    `json:"guest_kernel"`
	Containerd string    `json:"containerd"`
	CPUs       int       `json:"cpus"`
	Load       string    `json:"load_average"`
	Pairs      []Pair    `json:"pairs"`
}

func (r *Report) add(hyper, other *Series) {
	hyper.finish()
	other.finish()
	r.Pairs = append(r.Pairs, Pair{hyper, other, hyper.Median / other.Median})
}

// markdown is the report as a table for a person.
func (r *Report) markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s, host kernel %s, %d CPUs, load %s; containerd %s, guest kernel %s.\n\n",
		r.When.UTC().Format("2006-01-02 15:04 MST"), r.HostKernel, r.CPUs, r.Load, r.Containerd, r.Kernel)
	b.WriteString("| What | | n | Median | p10–p90 | Ratio |\n|---|---|--:|--:|--:|--:|\n")
	for _, p := range r.Pairs {
		for i, s := range []*Series{p.Hyper, p.Other} {
			ratio := ""
			if i == 0 {
				ratio = fmt.Sprintf("%.2f", p.Ratio)
			}
			what, who, _ := strings.Cut(s.Name, ": ")
			fmt.Fprintf(&b, "| %s | %s | %d | %.4g %s | %.4g–%.4g | %s |\n", what, who, len(s.Values), s.Median, s.Unit, s.P10, s.P90, ratio)
		}
	}
	return b.String()
}

// write puts both forms into a directory.
func (r *Report) write(dir string) error {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for name, text := range map[string][]byte{"bench.json": append(data, '\n'), "bench.md": []byte(r.markdown())} {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o644); err != nil {
			return fmt.Errorf("writing the report: %w", err)
		}
	}
	return nil
}
