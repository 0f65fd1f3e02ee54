package main

import (
	"fmt"
	"net"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/hyperhq/hyper/test/traffic"
)

// serveTraffic serves TCP and UDP at an address for good.
func serveTraffic(address string) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	packets, err := net.ListenPacket("udp", address)
	if err != nil {
		return err
	}
	fmt.Println("serving")
	return traffic.Serve(l, packets)
}

func connections(address, count string) error {
	n, err := numbers([]string{count})
	if err != nil {
		return err
	}
	return traffic.Connect(address, n[0])
}

func datagrams(address, count, size string) error {
	n, err := numbers([]string{count, size})
	if err != nil {
		return err
	}
	lost, err := traffic.Datagrams(address, n[1], n[0])
	fmt.Println(lost)
	return err
}

// offloads prints which of the kernel's work with packets an interface's device does.
func offloads(name string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for _, feature := range []struct {
		name    string
		command uint32
	}{
		{"rx-checksum", unix.ETHTOOL_GRXCSUM},
		{"tx-checksum", unix.ETHTOOL_GTXCSUM},
		{"scatter-gather", unix.ETHTOOL_GSG},
		{"tso", unix.ETHTOOL_GTSO},
	} {
		on, err := ethtool(fd, name, feature.command)
		if err != nil {
			return fmt.Errorf("asking for %s of %s: %w", feature.name, name, err)
		}
		if on {
			fmt.Println(feature.name)
		}
	}
	return nil
}

// ethtool asks for one feature of an interface.
func ethtool(fd int, name string, command uint32) (bool, error) {
	value := struct{ command, data uint32 }{command: command}
	request := struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}{data: unsafe.Pointer(&value)}
	copy(request.name[:unix.IFNAMSIZ-1], name)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request))); errno != 0 {
		return false, errno
	}
	return value.data != 0, nil
}
