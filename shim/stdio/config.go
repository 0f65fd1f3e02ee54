package stdio

import (
	"fmt"
	"net/url"
	"path/filepath"

	"github.com/containerd/errdefs"
)

// Config is what containerd names for the standard streams of one process.
type Config struct {
	// Stdin is the path of a fifo, or empty for none.
	Stdin string
	// Stdout and Stderr are the path of a fifo, or a URI with scheme fifo,
	// file or binary, or empty for none.
	Stdout, Stderr string
	// Terminal says that stdin and stdout are one terminal; stderr is unused.
	Terminal bool
}

// Streams tells which streams a process needs for this configuration. A
// terminal always needs its output read, or the process would hang on it.
func (c Config) Streams() (stdin, stdout, stderr bool) {
	return c.Stdin != "", c.Stdout != "" || c.Terminal, c.Stderr != "" && !c.Terminal
}

// scheme is how an output is written.
type scheme string

const (
	schemeNone   scheme = ""
	schemeFifo   scheme = "fifo"
	schemeFile   scheme = "file"
	schemeBinary scheme = "binary"
	// schemeBinaryReady is a logger that must say that it is ready by a byte;
	// of the older kind, closing the descriptor is enough.
	schemeBinaryReady scheme = "binary-v2"
)

// target is a parsed output.
type target struct {
	scheme scheme
	path   string
	uri    *url.URL
}

// parseTarget reads an output's name; an unknown one is ErrInvalidArgument.
func parseTarget(name string) (target, error) {
	if name == "" {
		return target{}, nil
	}
	if filepath.IsAbs(name) {
		return target{scheme: schemeFifo, path: name}, nil
	}
	u, err := url.Parse(name)
	if err != nil {
		return target{}, fmt.Errorf("output %q is neither an absolute path nor a URI: %w", name, errdefs.ErrInvalidArgument)
	}
	t := target{scheme: scheme(u.Scheme), path: u.Path, uri: u}
	switch t.scheme {
	case schemeFifo, schemeFile, schemeBinary, schemeBinaryReady:
	default:
		return target{}, fmt.Errorf("output %q has scheme %q, known are fifo, file, binary and binary-v2: %w",
			name, u.Scheme, errdefs.ErrInvalidArgument)
	}
	if !filepath.IsAbs(t.path) {
		return target{}, fmt.Errorf("output %q names no absolute path: %w", name, errdefs.ErrInvalidArgument)
	}
	return t, nil
}
