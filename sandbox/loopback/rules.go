package loopback

import (
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// tableName is that of our tables.
const tableName = "hyper"

// rules are what redirects a namespace's connections to its loopback.
type rules struct {
	conn   *nftables.Conn
	tables []*nftables.Table
}

// redirect has all connections to the loopback of a namespace come to the
// listeners of their family, whatever their port.
func redirect(namespace *os.File, listeners []*net.TCPListener) (*rules, error) {
	conn, err := nftables.New(nftables.WithNetNSFd(int(namespace.Fd())))
	if err != nil {
		return nil, err
	}
	r := &rules{conn: conn}
	for _, l := range listeners {
		address := l.Addr().(*net.TCPAddr)
		if address.IP.To4() != nil {
			// 127.0.0.0/8, at its place in the IPv4 header.
			r.add(nftables.TableFamilyIPv4, address.Port, &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 16, Len: 1}, []byte{127})
		} else {
			r.add(nftables.TableFamilyIPv6, address.Port, &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 24, Len: 16}, net.IPv6loopback)
		}
	}
	if err := conn.Flush(); err != nil {
		return nil, fmt.Errorf("adding rules: %w", err)
	}
	return r, nil
}

// add plans the table of one family: TCP to a destination goes to a port of the
// host's own.
func (r *rules) add(family nftables.TableFamily, port int, load *expr.Payload, destination []byte) {
	table := r.conn.AddTable(&nftables.Table{Family: family, Name: tableName})
	r.tables = append(r.tables, table)
	chain := r.conn.AddChain(&nftables.Chain{
		Name: "loopback", Table: table, Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityNATDest,
	})
	r.conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}},
		load,
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: destination},
		&expr.Immediate{Register: 1, Data: binaryutil.BigEndian.PutUint16(uint16(port))},
		&expr.Redir{RegisterProtoMin: 1},
	}})
}

// remove takes the rules out. A namespace in which they are not is fine.
func (r *rules) remove() error {
	for _, table := range r.tables {
		r.conn.DelTable(table)
	}
	if err := r.conn.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("removing rules: %w", err)
	}
	return nil
}

// askedPort is the port that a redirected connection was made to.
func askedPort(conn *net.TCPConn) (port uint16, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	second := conn.LocalAddr().(*net.TCPAddr).IP.To4() == nil
	var asked error
	err = raw.Control(func(fd uintptr) {
		// SO_ORIGINAL_DST of each family has the same number, and gives a
		// sockaddr, whose port is in network byte order after the family. They
		// are read by the getters of something else that has the size.
		if second {
			var a *unix.IPv6MTUInfo
			if a, asked = unix.GetsockoptIPv6MTUInfo(int(fd), unix.SOL_IPV6, unix.SO_ORIGINAL_DST); asked == nil {
				port = a.Addr.Port>>8 | a.Addr.Port<<8
			}
			return
		}
		var a *unix.IPv6Mreq
		if a, asked = unix.GetsockoptIPv6Mreq(int(fd), unix.SOL_IP, unix.SO_ORIGINAL_DST); asked == nil {
			port = uint16(a.Multiaddr[2])<<8 | uint16(a.Multiaddr[3])
		}
	})
	return port, errors.Join(err, asked)
}
