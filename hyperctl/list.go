package hyperctl

import (
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"text/tabwriter"
	"time"
)

// writeJSON writes the sandboxes as one array.
func writeJSON(w io.Writer, all []sandbox) error {
	if all == nil {
		all = []sandbox{}
	}
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(all)
}

// writeTable writes a line for each sandbox; a field that is not known is "-".
func writeTable(w io.Writer, all []sandbox, now time.Time) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "NAMESPACE\tSANDBOX\tSTATE\tFROM\tSTART MS\tAGE\tSHIM\tQEMU\tPSS MIB")
	for _, s := range all {
		start, age := "-", "-"
		if s.Ready != nil {
			start = strconv.FormatFloat(s.Phases["boot"], 'f', 0, 64)
			age = now.Sub(*s.Ready).Round(time.Second).String()
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%.1f\n",
			known(s.Namespace), known(s.Name), s.State, known(s.From), start, age, s.pid("shim"), s.pid("qemu"), s.pss())
	}
	return t.Flush()
}

func known(text string) string {
	if text == "" {
		return "-"
	}
	return text
}

// pid is the id of the process of that name.
func (s sandbox) pid(name string) string {
	for _, p := range s.Processes {
		if p.Name == name {
			return strconv.Itoa(p.PID)
		}
	}
	return "-"
}

// pss is the memory of all processes, in MiB.
func (s sandbox) pss() float64 {
	var bytes uint64
	for _, p := range s.Processes {
		bytes += p.PSS
	}
	return float64(bytes) / (1 << 20)
}
