package agent

import (
	"fmt"
	"strconv"
	"strings"
)

// maxCmdline is what x86 kernels can hold (COMMAND_LINE_SIZE).
const maxCmdline = 2048

// options are what the kernel's command line says to the agent.
type options struct {
	// vsockPort is the host's vsock port to dial, or 0 for the virtio-serial port.
	vsockPort uint32
	debug     bool
}

// parseCmdline reads the agent's options from the kernel's command line. Words
// that are not the agent's are skipped.
func parseCmdline(line string) (options, error) {
	var o options
	if len(line) > maxCmdline {
		return o, fmt.Errorf("the kernel command line has %d bytes, at most %d are read", len(line), maxCmdline)
	}
	for word := range strings.FieldsSeq(line) {
		key, value, _ := strings.Cut(word, "=")
		switch key {
		case "hyper.channel":
			port, err := parseChannel(value)
			if err != nil {
				return o, err
			}
			o.vsockPort = port
		case "hyper.log":
			o.debug = value == "debug"
		}
	}
	return o, nil
}

func parseChannel(value string) (uint32, error) {
	if value == "serial" {
		return 0, nil
	}
	kind, port, found := strings.Cut(value, ":")
	n, err := strconv.ParseUint(port, 10, 32)
	if kind != "vsock" || !found || err != nil || n == 0 {
		return 0, fmt.Errorf("hyper.channel=%q on the kernel command line: want \"serial\" or \"vsock:<port>\"", value)
	}
	return uint32(n), nil
}
