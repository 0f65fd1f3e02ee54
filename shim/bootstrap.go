package shim

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"

	bootstrap "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	runtimeoptions "github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

const (
	// maxBootstrap bounds what is read from standard input, in bytes.
	maxBootstrap = 4 << 20
	// maxAPI is the newest version of the task API that we serve, minAPI the
	// oldest.
	maxAPI, minAPI = 3, 2
)

// dialect is the form of the answer that containerd expects of start.
type dialect int

const (
	// plain is the bare address: containerd 1.6.
	plain dialect = iota
	// jsonParams is a JSON object with the API's version: containerd 1.7 to 2.2.
	jsonParams
	// protoResult is an encoded BootstrapResult: containerd 2.3 and later.
	protoResult
)

// request is what containerd asks of start.
type request struct {
	dialect      dialect
	api          int    // version of the task API
	ttrpcAddress string // of containerd's event service
	grpcAddress  string
	socketDir    string // empty: containerd's default
	configPath   string // of our configuration; empty: the default
	debug        bool
}

// decodeRequest reads start's standard input. Parameters that name the same task
// as the command line are containerd 2.3's; anything else is a task's options,
// if at all, which older ones send: those decode as parameters as well, so that
// only the names tell. maxVersion is $MAX_SHIM_VERSION, of 1.7 and later.
func decodeRequest(input []byte, i invocation, maxVersion string) (request, error) {
	r := request{grpcAddress: i.Address, debug: i.Debug}
	var p bootstrap.BootstrapParams
	if err := proto.Unmarshal(input, &p); err == nil && p.InstanceID == i.ID && p.Namespace == i.Namespace {
		return decodeParams(&p, r)
	}
	if len(input) > 0 {
		var options anypb.Any
		if err := proto.Unmarshal(input, &options); err != nil {
			return r, fmt.Errorf("standard input is neither bootstrap parameters nor runtime options (%w): %w", err, errdefs.ErrInvalidArgument)
		}
		path, err := configPath(&options)
		if err != nil {
			return r, err
		}
		r.configPath = path
	}
	if maxVersion == "" {
		r.dialect, r.api = plain, minAPI
		return r, nil
	}
	v, err := strconv.Atoi(maxVersion)
	if err != nil || v < minAPI {
		return r, fmt.Errorf("MAX_SHIM_VERSION is %q, want %d or more: %w", maxVersion, minAPI, errdefs.ErrInvalidArgument)
	}
	r.dialect, r.api = jsonParams, min(v, maxAPI)
	return r, nil
}

func decodeParams(p *bootstrap.BootstrapParams, r request) (request, error) {
	r.dialect, r.api = protoResult, maxAPI
	r.ttrpcAddress = p.ContainerdTtrpcAddress
	r.socketDir = p.GetSocketDir()
	r.debug = r.debug || p.LogLevel <= bootstrap.LogLevel_LOG_LEVEL_DEBUG
	if p.ContainerdGrpcAddress != "" {
		r.grpcAddress = p.ContainerdGrpcAddress
	}
	for _, e := range p.Extensions {
		path, err := configPath(e.GetValue())
		if err != nil {
			return r, err
		}
		if path != "" {
			r.configPath = path
		}
	}
	return r, nil
}

// configPath is the configuration file that a task's options name: the generic
// ones that CRI and ctr --runtime-config-path send. Those of other runtimes are
// not for us.
func configPath(a *anypb.Any) (string, error) {
	var o runtimeoptions.Options
	if a == nil || typeName(a.TypeUrl) != string(o.ProtoReflect().Descriptor().FullName()) {
		return "", nil
	}
	if err := proto.Unmarshal(a.Value, &o); err != nil {
		return "", fmt.Errorf("decode the runtime's options: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	return o.ConfigPath, nil
}

// typeName is a type URL without its host.
func typeName(url string) string {
	for i := len(url) - 1; i >= 0; i-- {
		if url[i] == '/' {
			return url[i+1:]
		}
	}
	return url
}

// answer writes the address of the server in the dialect that was asked in.
func answer(w io.Writer, r request, address string) error {
	var out []byte
	var err error
	switch r.dialect {
	case plain:
		out = []byte(address)
	case jsonParams:
		out, err = json.Marshal(struct {
			Version  int    `json:"version"`
			Address  string `json:"address"`
			Protocol string `json:"protocol"`
		}{r.api, address, "ttrpc"})
	case protoResult:
		out, err = proto.Marshal(&bootstrap.BootstrapResult{Version: int32(r.api), Address: address, Protocol: "ttrpc"})
	}
	if err != nil {
		return fmt.Errorf("encode the answer to containerd: %w", err)
	}
	if _, err := w.Write(out); err != nil {
		return fmt.Errorf("answer containerd: %w", err)
	}
	return nil
}

// readBounded reads r to its end, of at most limit bytes.
func readBounded(r io.Reader, limit int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, errors.Join(fmt.Errorf("more than %d bytes", limit), errdefs.ErrInvalidArgument)
	}
	return data, nil
}
