package shim

import (
	"bytes"
	"encoding/json"
	"testing"

	bootstrap "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	runtimeoptions "github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/protobuf/proto"
)

// encoded is m on the wire.
func encoded(t testing.TB, m proto.Message) []byte {
	t.Helper()
	data, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// options is what containerds before 2.3 send: a task's options.
func options(t testing.TB, m proto.Message) []byte {
	t.Helper()
	a, err := typeurl.MarshalAnyToProto(m)
	if err != nil {
		t.Fatal(err)
	}
	return encoded(t, a)
}

func params(t testing.TB, id string, options proto.Message) []byte {
	t.Helper()
	dir := "/s"
	p := &bootstrap.BootstrapParams{
		InstanceID: id, Namespace: "ns", LogLevel: bootstrap.LogLevel_LOG_LEVEL_DEBUG,
		ContainerdTtrpcAddress: "/ttrpc", ContainerdGrpcAddress: "/grpc", SocketDir: &dir,
	}
	if options != nil {
		if err := p.AddExtension(options); err != nil {
			t.Fatal(err)
		}
	}
	return encoded(t, p)
}

func TestDecodeRequest(t *testing.T) {
	generic := &runtimeoptions.Options{TypeUrl: "x", ConfigPath: "/etc/other.toml"}
	runc := &runcoptions.Options{BinaryName: "crun"}
	modern := request{
		dialect: protoResult, api: 3, ttrpcAddress: "/ttrpc", grpcAddress: "/grpc", socketDir: "/s", debug: true,
	}
	configured := modern
	configured.configPath = "/etc/other.toml"
	for name, c := range map[string]struct {
		input []byte
		max   string
		want  request
	}{
		"1.6":                         {nil, "", request{dialect: plain, api: 2, grpcAddress: "/flag"}},
		"1.6 with runc's options":     {options(t, runc), "", request{dialect: plain, api: 2, grpcAddress: "/flag"}},
		"1.6 with a configuration":    {options(t, generic), "", request{dialect: plain, api: 2, grpcAddress: "/flag", configPath: "/etc/other.toml"}},
		"1.7":                         {nil, "2", request{dialect: jsonParams, api: 2, grpcAddress: "/flag"}},
		"2.0 with options":            {options(t, generic), "3", request{dialect: jsonParams, api: 3, grpcAddress: "/flag", configPath: "/etc/other.toml"}},
		"one of the future":           {nil, "4", request{dialect: jsonParams, api: 3, grpcAddress: "/flag"}},
		"2.3":                         {params(t, "id", nil), "2", modern},
		"2.3 with runc's options":     {params(t, "id", runc), "2", modern},
		"2.3 with a configuration":    {params(t, "id", generic), "2", configured},
		"2.3 without the environment": {params(t, "id", nil), "", modern},
	} {
		got, err := decodeRequest(c.input, invocation{ID: "id", Namespace: "ns", Address: "/flag"}, c.max)
		if err != nil || got != c.want {
			t.Errorf("%s: %+v, %v; want %+v", name, got, err, c.want)
		}
	}
	for name, c := range map[string]struct {
		input []byte
		max   string
	}{
		"no protobuf":       {[]byte("{}"), "2"},
		"broken options":    {encoded(t, must(typeurl.MarshalAnyToProto(generic)))[:20], "2"},
		"a version of 1":    {nil, "1"},
		"a version of text": {nil, "two"},
	} {
		if r, err := decodeRequest(c.input, invocation{ID: "id", Namespace: "ns"}, c.max); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func TestParamsOfAnotherTaskAreNotOurs(t *testing.T) {
	r, err := decodeRequest(params(t, "other", nil), invocation{ID: "id", Namespace: "ns"}, "2")
	if err == nil && r.dialect == protoResult {
		t.Errorf("took %+v", r)
	}
}

func TestAnswer(t *testing.T) {
	const address = "unix:///s/x"
	out := func(d dialect) []byte {
		var b bytes.Buffer
		if err := answer(&b, request{dialect: d, api: 3}, address); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	if got := string(out(plain)); got != address {
		t.Errorf("plain: %q", got)
	}
	var j bootstrap.BootstrapResult // containerd decodes into it with encoding/json
	if err := json.Unmarshal(out(jsonParams), &j); err != nil || j.Version != 3 || j.Address != address || j.Protocol != "ttrpc" {
		t.Errorf("JSON: %v, %v", &j, err)
	}
	var p bootstrap.BootstrapResult
	if err := proto.Unmarshal(out(protoResult), &p); err != nil || p.Version != 3 || p.Address != address || p.Protocol != "ttrpc" {
		t.Errorf("protobuf: %v, %v", &p, err)
	}
	// containerd 2.3 tries protobuf first: neither of the others may pass for it.
	for _, d := range []dialect{plain, jsonParams} {
		if err := proto.Unmarshal(out(d), &bootstrap.BootstrapResult{}); err == nil {
			t.Errorf("dialect %d decodes as protobuf", d)
		}
	}
}

func FuzzDecodeRequest(f *testing.F) {
	f.Add([]byte(nil), "")
	f.Add([]byte("{}"), "2")
	f.Add(params(f, "id", &runtimeoptions.Options{ConfigPath: "/c"}), "2")
	f.Add(options(f, &runtimeoptions.Options{ConfigPath: "/c"}), "3")
	f.Add(options(f, &runcoptions.Options{BinaryName: "crun"}), "")
	f.Fuzz(func(t *testing.T, input []byte, max string) {
		r, err := decodeRequest(input, invocation{ID: "id", Namespace: "ns", Address: "/a"}, max)
		if err != nil {
			if !errdefs.IsInvalidArgument(err) {
				t.Errorf("an error of another kind: %v", err)
			}
			return
		}
		if r.api < minAPI || r.api > maxAPI || r.dialect < plain || r.dialect > protoResult {
			t.Errorf("%+v", r)
		}
		var out bytes.Buffer
		if err := answer(&out, r, "unix:///s/x"); err != nil || out.Len() == 0 {
			t.Errorf("answer %q, %v", out.String(), err)
		}
	})
}
