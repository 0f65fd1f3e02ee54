package harness

import (
	"fmt"
	"net"
	"net/http"

	"github.com/vishvananda/netlink"
)

// The network beyond a host, who is there by the name OutsideName, and what a web
// server of it says.
const (
	UplinkAddress   = "10.55.0.2"
	UplinkAddress6  = "fd55::2"
	OutsideAddress  = "10.55.0.1"
	OutsideAddress6 = "fd55::1"
	OutsideName     = "server.test"
	OutsidePage     = "from outside"
	// OutsidePort is the web server's. The name server has the usual one.
	OutsidePort = "7000"
)

// NewOutside gives a host, by its network namespace, default routes to a network of
// the test's, in which there are a web server and a name server.
func NewOutside(t T, host *NetNS) *NetNS {
	t.Helper()
	outside := NewNetNS(t)
	host.Veth(t, "up0", []string{UplinkAddress + "/24", UplinkAddress6 + "/64"},
		outside, "wan0", []string{OutsideAddress + "/24", OutsideAddress6 + "/64"})
	link, err := host.LinkByName("up0")
	if err != nil {
		t.Fatalf("looking for a host's uplink: %v", err)
	}
	t.Cleanup(func() { host.LinkDel(link) })
	for _, gateway := range []string{OutsideAddress, OutsideAddress6} {
		if err := host.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: net.ParseIP(gateway)}); err != nil {
			t.Fatalf("giving the host a default route by %s: %v", gateway, err)
		}
	}
	err = outside.Do(func() error {
		for _, address := range []string{OutsideAddress, OutsideAddress6} {
			AnswerHTTP(t, net.JoinHostPort(address, OutsidePort), OutsidePage)
		}
		answerDNS(t, net.JoinHostPort(OutsideAddress, "53"))
		return nil
	})
	if err != nil {
		t.Fatalf("answering outside: %v", err)
	}
	return outside
}

// AnswerHTTP serves a page until the test ends.
func AnswerHTTP(t T, address, text string) {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatalf("answering at %s: %v", address, err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, text) })}
	t.Cleanup(func() { server.Close() })
	go server.Serve(l) // ends with the server
}

// answerDNS is a server that knows one name, until the test ends.
func answerDNS(t T, address string) {
	t.Helper()
	conn, err := net.ListenPacket("udp", address)
	if err != nil {
		t.Fatalf("answering at %s: %v", address, err)
	}
	t.Cleanup(func() { conn.Close() })
	go func() { // ends with the socket
		buf := make([]byte, 1500)
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			if reply := dnsReply(buf[:n]); reply != nil {
				conn.WriteTo(reply, from)
			}
		}
	}()
}

// dnsReply answers any question for an address of IPv4 with OutsideAddress, and
// others with nothing.
func dnsReply(query []byte) []byte {
	const header = 12
	end := header
	for end < len(query) && query[end] != 0 {
		end += int(query[end]) + 1
	}
	end += 5 // the root's label, type and class
	if end > len(query) {
		return nil
	}
	reply := append([]byte{query[0], query[1], 0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0}, query[header:end]...)
	if query[end-3] == 1 { // A
		reply[7] = 1
		reply = append(reply, 0xc0, header, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4)
		reply = append(reply, net.ParseIP(OutsideAddress).To4()...)
	}
	return reply
}
