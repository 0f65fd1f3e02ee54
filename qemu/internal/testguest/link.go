//go:build linux

package main

import (
	"fmt"
	"net"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// waitLink waits until there is a card of an address, or none any more, and returns
// its name and its MTU.
func waitLink(mac string, there bool) (answer string, err error) {
	err = await(func() (bool, error) {
		links, err := net.Interfaces()
		if err != nil {
			return false, err
		}
		for _, link := range links {
			if link.HardwareAddr.String() == mac {
				answer = fmt.Sprint(link.Name, " ", link.MTU)
				return there, nil
			}
		}
		return !there, nil
	})
	return answer, err
}

// sendFrame brings a link up, and sends all stations a frame of the experimental type.
func sendFrame(name, text string) error {
	s, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	request, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	request.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, request); err != nil {
		return fmt.Errorf("bring %s up: %w", name, err)
	}
	link, err := net.InterfaceByName(name)
	if err != nil {
		return err
	}
	frame := []byte(strings.Repeat("\xff", 6) + string(link.HardwareAddr) + "\x88\xb5" + text)
	frame = append(frame, make([]byte, max(0, 60-len(frame)))...)
	return unix.Sendto(s, frame, 0, &unix.SockaddrLinklayer{Ifindex: link.Index, Halen: 6})
}

// queues counts the queues that a link sends with.
func queues(name string) (string, error) {
	entries, err := os.ReadDir("/sys/class/net/" + name + "/queues")
	n := 0
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "tx-") {
			n++
		}
	}
	return fmt.Sprint(n), err
}
