package hyperctl

import (
	"fmt"
	"io"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"
)

// metrics are the sandboxes as Prometheus sees them.
type metrics struct {
	all []sandbox

	count, phase, ready, pss, cpu *prometheus.Desc
}

func newMetrics(all []sandbox) *metrics {
	of := []string{"namespace", "sandbox"}
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("hyper_"+name, help, labels, nil)
	}
	return &metrics{
		all:   all,
		count: desc("sandboxes", "Sandboxes on this host by state: starting, running, parked (in the pool), or dead (not cleaned up yet).", "state"),
		phase: desc("sandbox_start_phase_seconds", "How long a step of the sandbox's start took; guest_*_at count from the start of its kernel.",
			append(of, "from", "phase")...),
		ready: desc("sandbox_ready_timestamp_seconds", "When the sandbox's guest answered.", of...),
		pss:   desc("sandbox_process_pss_bytes", "Memory of a process of the sandbox on the host; that of qemu has the guest's in it.", append(of, "process")...),
		cpu:   desc("sandbox_process_cpu_seconds_total", "Processor time of a process of the sandbox on the host.", append(of, "process")...),
	}
}

// Describe implements prometheus.Collector.
func (m *metrics) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{m.count, m.phase, m.ready, m.pss, m.cpu} {
		to <- d
	}
}

// Collect implements prometheus.Collector.
func (m *metrics) Collect(to chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	count := map[string]int{starting: 0, running: 0, parked: 0, dead: 0}
	for _, s := range m.all {
		count[s.State]++
		if s.Ready == nil {
			continue // it has no name yet
		}
		gauge(m.ready, float64(s.Ready.UnixMilli())/1000, s.Namespace, s.Name)
		for phase, ms := range s.Phases {
			gauge(m.phase, ms/1000, s.Namespace, s.Name, s.From, phase)
		}
		for _, p := range s.Processes {
			gauge(m.pss, float64(p.PSS), s.Namespace, s.Name, p.Name)
			to <- prometheus.MustNewConstMetric(m.cpu, prometheus.CounterValue, p.CPU, s.Namespace, s.Name, p.Name)
		}
	}
	for state, n := range count {
		gauge(m.count, float64(n), state)
	}
}

// writeMetrics writes the sandboxes in Prometheus' text format.
func writeMetrics(w io.Writer, all []sandbox) error {
	registry := prometheus.NewPedanticRegistry()
	if err := registry.Register(newMetrics(all)); err != nil {
		return fmt.Errorf("make the metrics: %w", err)
	}
	families, err := registry.Gather()
	if err != nil {
		return fmt.Errorf("gather the metrics: %w", err)
	}
	for _, family := range families {
		if _, err := expfmt.MetricFamilyToText(w, family); err != nil {
			return fmt.Errorf("write the metrics: %w", err)
		}
	}
	return nil
}
