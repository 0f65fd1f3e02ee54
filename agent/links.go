package agent

import (
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// awayName is the pattern of which the kernel makes the name of an interface
// that has to leave its own to another.
const awayName = "moved%d"

// devices lists the machine's network devices by their MAC addresses. Bridges,
// tunnels and the like that a container made are none, nor is the loopback.
func (k *kernelNetwork) devices() (map[macAddress]netlink.Link, error) {
	all, err := dump("network interfaces", k.h.LinkList)
	if err != nil {
		return nil, err
	}
	devices := map[macAddress]netlink.Link{}
	for _, l := range all {
		attrs := l.Attrs()
		_, plain := l.(*netlink.Device)
		if plain && attrs.Flags&net.FlagLoopback == 0 && len(attrs.HardwareAddr) == len(macAddress{}) {
			devices[macAddress(attrs.HardwareAddr)] = l
		}
	}
	return devices, nil
}

// awaitLinks waits until all interfaces that are wanted are there, at most
// until ctx ends, and returns all devices.
func (k *kernelNetwork) awaitLinks(ctx context.Context, want []wantedLink) (map[macAddress]netlink.Link, error) {
	devices, err := k.devices()
	if err != nil || missing(want, devices) == nil {
		return devices, err
	}
	// Listen first, look second: what appears in between is announced.
	events, err := openAnnouncements(unix.NETLINK_ROUTE, unix.RTMGRP_LINK)
	if err != nil {
		return nil, err
	}
	defer events.Close()
	stop := context.AfterFunc(ctx, func() { events.Close() })
	defer stop()
	buf := make([]byte, 8<<10)
	for {
		devices, err := k.devices()
		if err != nil {
			return nil, err
		}
		lacking := missing(want, devices)
		if lacking == nil {
			return devices, nil
		}
		if _, err := events.Read(buf); err != nil && !errors.Is(err, unix.ENOBUFS) {
			return nil, fmt.Errorf("waiting for interface %s: no network device has the MAC address %s: has the machine been given one, and the kernel its driver? (%w)",
				lacking.name, lacking.mac, errors.Join(err, ctx.Err()))
		}
	}
}

// missing returns the first of want that is not among the devices.
func missing(want []wantedLink, devices map[macAddress]netlink.Link) *wantedLink {
	for i := range want {
		if devices[want[i].mac] == nil {
			return &want[i]
		}
	}
	return nil
}

// retireOthers takes devices that are not wanted out of use.
func (k *kernelNetwork) retireOthers(devices map[macAddress]netlink.Link, want []wantedLink) error {
	wanted := map[macAddress]bool{}
	for _, l := range want {
		wanted[l.mac] = true
	}
	for mac, l := range devices {
		if wanted[mac] {
			continue
		}
		if err := k.retire(l); err != nil {
			return fmt.Errorf("taking interface %s out of use: %w", l.Attrs().Name, err)
		}
	}
	return nil
}

func (k *kernelNetwork) retire(l netlink.Link) error {
	if l.Attrs().Flags&net.FlagUp != 0 {
		if err := k.h.LinkSetDown(l); err != nil {
			return fmt.Errorf("setting it down: %w", err)
		}
	}
	have, err := k.addresses(l)
	if err != nil {
		return err
	}
	for _, a := range have {
		if err := k.h.AddrDel(l, &a); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return fmt.Errorf("removing address %v: %w", a.IPNet, err)
		}
	}
	return nil
}

// renameLinks gives the interfaces their names. One that holds another's name,
// as when two are to be swapped, leaves it first.
func (k *kernelNetwork) renameLinks(want []wantedLink, devices map[macAddress]netlink.Link) error {
	for _, w := range want {
		link := devices[w.mac]
		if link.Attrs().Name == w.name {
			continue
		}
		holder, err := k.h.LinkByName(w.name)
		var notFound netlink.LinkNotFoundError
		switch {
		case errors.As(err, &notFound):
		case err != nil:
			return fmt.Errorf("looking for an interface %s: %w", w.name, err)
		case holder.Attrs().Index == link.Attrs().Index:
			continue
		default:
			if err := k.rename(holder, awayName); err != nil {
				return err
			}
		}
		if err := k.rename(link, w.name); err != nil {
			return err
		}
	}
	return nil
}

// rename renames an interface, which has to be down for that.
func (k *kernelNetwork) rename(l netlink.Link, name string) error {
	wrap := func(err error) error {
		return fmt.Errorf("renaming interface %s to %s: %w", l.Attrs().Name, name, err)
	}
	up := l.Attrs().Flags&net.FlagUp != 0
	if up {
		if err := k.h.LinkSetDown(l); err != nil {
			return wrap(err)
		}
	}
	if err := k.h.LinkSetName(l, name); err != nil {
		return wrap(err)
	}
	if up {
		if err := k.h.LinkSetUp(l); err != nil {
			return wrap(err)
		}
	}
	return nil
}

func (k *kernelNetwork) applyMTU(w wantedLink) error {
	link := k.links[w.name]
	if w.mtu == 0 || w.mtu == link.Attrs().MTU {
		return nil
	}
	if err := k.h.LinkSetMTU(link, w.mtu); err != nil {
		return fmt.Errorf("setting the MTU of interface %s to %d: %w", w.name, w.mtu, err)
	}
	return nil
}

// setUp sets an interface up that was not. One that was renamed is as it was before.
func (k *kernelNetwork) setUp(w wantedLink) error {
	link := k.links[w.name]
	if link.Attrs().Flags&net.FlagUp != 0 {
		return nil
	}
	if err := k.h.LinkSetUp(link); err != nil {
		return fmt.Errorf("setting interface %s up: %w", w.name, err)
	}
	return nil
}
