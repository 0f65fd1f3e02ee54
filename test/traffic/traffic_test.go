package traffic

import (
	"bytes"
	"net"
	"strings"
	"testing"
	"time"
)

// serve serves at an address of the loopback until the test ends.
func serve(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	packets, err := net.ListenPacket("udp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- Serve(l, packets) }()
	t.Cleanup(func() {
		l.Close()
		if err := <-served; err != nil {
			t.Errorf("serving: %v", err)
		}
	})
	return l.Addr().String()
}

func TestBothEnds(t *testing.T) {
	address := serve(t)
	for _, n := range []int64{0, 8, bufferSize, 3*bufferSize + 16} {
		if err := Fetch(address, n, time.Minute); err != nil {
			t.Errorf("fetching %d bytes: %v", n, err)
		}
		if err := Deliver(address, n, time.Minute); err != nil {
			t.Errorf("delivering %d bytes: %v", n, err)
		}
	}
	if err := Connect(address, 10); err != nil {
		t.Error(err)
	}
	for _, size := range []int{1, 1500, maxDatagram} {
		if lost, err := Datagrams(address, size, 10); lost != 0 || err != nil {
			t.Errorf("of 10 datagrams of %d bytes %d were lost, %v", size, lost, err)
		}
	}
}

// TestFindsDamage changes what was sent, in each way that a network could.
func TestFindsDamage(t *testing.T) {
	var sent bytes.Buffer
	if err := send(&sent, 2*bufferSize); err != nil {
		t.Fatal(err)
	}
	whole := sent.String()
	for name, damaged := range map[string]string{
		"a changed byte":  whole[:70000] + "x" + whole[70001:],
		"a lost byte":     whole[:100] + whole[101:],
		"a lost block":    whole[:1400] + whole[2800:],
		"a doubled block": whole[:1400] + whole[:1400] + whole[1400:],
		"moved blocks":    whole[:1400] + whole[2800:4200] + whole[1400:2800] + whole[4200:],
	} {
		if n, err := receive(strings.NewReader(damaged)); err == nil {
			t.Errorf("%s: %d bytes were taken", name, n)
		}
	}
	if n, err := receive(strings.NewReader(whole)); n != 2*bufferSize || err != nil {
		t.Errorf("the whole: %d bytes, %v", n, err)
	}
}
