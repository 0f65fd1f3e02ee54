package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hyperhq/hyper/proto/channel"
)

const (
	// maxForwards is how many connections are forwarded at once.
	maxForwards = 256
	// forwardTime bounds connecting to a port of the guest itself.
	forwardTime = 10 * time.Second
)

// forward joins a stream of the host to a TCP port of the guest's loopback, and
// returns when both directions have ended, one has broken, or the session ended.
func (a *Agent) forward(ctx context.Context, port uint64, stream net.Conn, sessionEnd <-chan struct{}) {
	defer stream.Close()
	var tcp *net.TCPConn
	err := fmt.Errorf("%d connections are being forwarded", maxForwards)
	select {
	case a.forwards <- struct{}{}:
		defer func() { <-a.forwards }()
		tcp, err = dialLoopback(ctx, port)
	default:
	}
	if err != nil {
		a.log.debugf("forwarding to port %d: %v", port, err)
		_ = channel.AnswerForward(stream, false)
		return
	}
	defer tcp.Close()
	if err := channel.AnswerForward(stream, true); err != nil {
		return
	}
	join(channel.NewConn(stream), tcp, sessionEnd)
}

// dialLoopback connects to a port by IPv4, and where that is refused by IPv6.
func dialLoopback(ctx context.Context, port uint64) (*net.TCPConn, error) {
	if port < 1 || port > 65535 {
		return nil, errors.New("not a port from 1 to 65535")
	}
	dialer := net.Dialer{Timeout: forwardTime}
	var refused error
	for _, host := range []string{"127.0.0.1", "::1"} {
		conn, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort(host, strconv.FormatUint(port, 10)))
		if err == nil {
			return conn.(*net.TCPConn), nil
		}
		refused = errors.Join(refused, err)
		if !errors.Is(err, unix.ECONNREFUSED) {
			break
		}
	}
	return nil, refused
}

// duplex is a connection in the guest.
type duplex interface {
	io.ReadCloser
	channel.HalfCloser
}

// join copies both ways, each direction to its own end, and then closes both
// connections. If either breaks, or the session ends, it breaks both.
func join(host *channel.Conn, local duplex, sessionEnd <-chan struct{}) {
	ended := make(chan error, 2)
	go func() { ended <- channel.CopyHalf(local, host) }()
	go func() { ended <- channel.CopyHalf(host, local) }()
	broken := false
	for left := 2; left > 0; {
		select {
		case err := <-ended:
			left--
			broken = broken || err != nil
		case <-sessionEnd:
			broken, sessionEnd = true, nil
		}
		if broken {
			if tcp, ok := local.(*net.TCPConn); ok {
				// Its peer is to learn that this was no orderly end.
				_ = tcp.SetLinger(0)
			}
			local.Close()
			host.Close()
		}
	}
	local.Close()
	host.Close()
}
