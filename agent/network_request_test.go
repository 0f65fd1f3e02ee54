package agent

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/containerd/errdefs"

	agentv1 "github.com/hyperhq/hyper/proto/hyper/agent/v1"
)

func soundNetwork() *agentv1.SetNetworkRequest {
	return &agentv1.SetNetworkRequest{
		Interfaces: []*agentv1.Interface{
			{Mac: "02:00:00:00:00:01", Name: "eth0", Mtu: 1450, Addresses: []string{"10.1.2.3/24", "fd00::3/64"}},
			{Mac: "02:00:00:00:00:0A", Name: "net1.7"},
		},
		Routes: []*agentv1.Route{
			{Destination: "169.254.1.1/32", Interface: "eth0", Scope: 253},
			{Destination: "0.0.0.0/0", Gateway: "169.254.1.1", Interface: "eth0", Source: "10.1.2.3", Metric: 100, OnLink: true},
			{Destination: "::/0", Gateway: "fe80::1", Interface: "eth0", Scope: 253},
		},
		Neighbours: []*agentv1.Neighbour{{Address: "169.254.1.1", Mac: "02:00:00:00:00:fe", Interface: "eth0"}},
	}
}

func TestParseNetwork(t *testing.T) {
	w, err := parseNetwork(soundNetwork())
	if err != nil {
		t.Fatal(err)
	}
	if l := w.links[0]; l.name != "eth0" || l.mtu != 1450 || !slices.Equal(l.addresses,
		[]netip.Prefix{netip.MustParsePrefix("10.1.2.3/24"), netip.MustParsePrefix("fd00::3/64")}) {
		t.Errorf("interface %+v", l)
	}
	if r := w.routes[1]; r.metric != 100 || !r.onLink || r.source != netip.MustParseAddr("10.1.2.3") || r.gateway != netip.MustParseAddr("169.254.1.1") {
		t.Errorf("route %+v", r)
	}
	if r := w.routes[2]; r.metric != defaultMetric6 || r.scope != 0 {
		t.Errorf("an IPv6 route has scope %d and metric %d", r.scope, r.metric)
	}
	if w.neighbours[0].mac.String() != "02:00:00:00:00:fe" {
		t.Errorf("neighbour %+v", w.neighbours[0])
	}
}

func TestParseNetworkNamesTheBadField(t *testing.T) {
	type request = agentv1.SetNetworkRequest
	for field, spoil := range map[string]func(*request){
		"interfaces[0].mac":          func(r *request) { r.Interfaces[0].Mac = "02-00-00-00-00-01" },
		"interfaces[1].mac":          func(r *request) { r.Interfaces[1].Mac = "01:00:00:00:00:01" },
		"interfaces[1].the name":     func(r *request) { r.Interfaces[1].Mac = "02:00:00:00:00:01" },
		"interfaces[0].name":         func(r *request) { r.Interfaces[0].Name = "eth%d" },
		"interfaces[1].name":         func(r *request) { r.Interfaces[1].Name = "lo" },
		"interfaces[0].mtu":          func(r *request) { r.Interfaces[0].Mtu = 67 },
		"interfaces[0].addresses[1]": func(r *request) { r.Interfaces[0].Addresses[1] = "fd00::3" },
		"interfaces[0].addresses[0]": func(r *request) { r.Interfaces[0].Addresses[0] = "::ffff:10.0.0.1/120" },
		"interfaces[0].addresses: ":  func(r *request) { r.Interfaces[0].Addresses = make([]string, maxAddresses+1) },
		"interfaces: ":               func(r *request) { r.Interfaces = make([]*agentv1.Interface, maxLinks+1) },
		"routes[0].destination":      func(r *request) { r.Routes[0].Destination = "10.0.0.1/24" },
		"routes[1].gateway":          func(r *request) { r.Routes[1].Gateway = "fe80::1" },
		"routes[1].source":           func(r *request) { r.Routes[1].Source = "0.0.0.0" },
		"routes[2].gateway":          func(r *request) { r.Routes[2].Gateway = "fe80::1%eth0" },
		"routes[0].interface":        func(r *request) { r.Routes[0].Interface = "lo" },
		"routes[0].scope":            func(r *request) { r.Routes[0].Scope = 256 },
		"routes: ":                   func(r *request) { r.Routes = make([]*agentv1.Route, maxRoutes+1) },
		"neighbours[0].address":      func(r *request) { r.Neighbours[0].Address = "224.0.0.1" },
		"neighbours[0].mac":          func(r *request) { r.Neighbours[0].Mac = "" },
		"neighbours[0].interface":    func(r *request) { r.Neighbours[0].Interface = "eth9" },
		"neighbours: ":               func(r *request) { r.Neighbours = make([]*agentv1.Neighbour, maxNeighbours+1) },
	} {
		req := soundNetwork()
		spoil(req)
		_, err := parseNetwork(req)
		if !errdefs.IsInvalidArgument(err) || !strings.HasPrefix(err.Error(), field) {
			t.Errorf("%s: %v", field, err)
		}
	}
}

func TestValidateLinkName(t *testing.T) {
	for _, good := range []string{"eth0", "e", "a-very.long_nam", "eth0@x"} {
		if err := validateLinkName(good); err != nil {
			t.Error(err)
		}
	}
	for _, bad := range []string{"", ".", "..", "lo", "all", "default", "a/b", "a:b", "a b", "a\x00", "ä", "sixteen-letters-"} {
		if err := validateLinkName(bad); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func FuzzParseNetwork(f *testing.F) {
	seed, err := proto.Marshal(soundNetwork())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		var req agentv1.SetNetworkRequest
		if proto.Unmarshal(data, &req) != nil {
			return
		}
		w, err := parseNetwork(&req)
		if err != nil {
			if !errdefs.IsInvalidArgument(err) {
				t.Fatal(err)
			}
			return
		}
		for _, l := range w.links {
			if len(l.name) > maxLinkName || strings.ContainsAny(l.name, "/:% ") {
				t.Fatalf("interface %q", l.name)
			}
		}
		for _, r := range w.routes {
			if r.gateway.IsValid() && r.gateway.Is4() != r.destination.Addr().Is4() {
				t.Fatalf("route %+v", r)
			}
		}
	})
}
