package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/containerd/errdefs"

	"github.com/hyperhq/hyper/qemu/qmp"
	"github.com/hyperhq/hyper/virtcontainers"
)

const (
	// maxQueues bounds the queues of a card.
	maxQueues = 64
	// minMTU is the least that IPv4 allows, maxMTU the most that virtio can say.
	minMTU, maxMTU = 68, 65535
	// undoTimeout bounds what is done to leave nothing behind. The guest has its
	// part in it only if it was given the card.
	undoTimeout = 5 * time.Second
)

// AttachNIC implements virtcontainers.VM.
func (m *machine) AttachNIC(ctx context.Context, nic virtcontainers.NIC) error {
	err := m.checkHotplug(ctx)
	if err == nil {
		err = checkNIC(nic)
	}
	if err == nil {
		err = m.orGone(m.plugNIC(ctx, nic))
	}
	if err != nil {
		return fmt.Errorf("attach NIC %q to VM %q: %w", nic.ID, m.id, err)
	}
	return nil
}

// DetachNIC implements virtcontainers.VM. When the guest has not let go in time it
// may be called again, and the id is taken until then.
func (m *machine) DetachNIC(ctx context.Context, id string) error {
	err := m.checkHotplug(ctx)
	if err == nil {
		err = m.orGone(m.unplugNIC(ctx, id))
	}
	if err != nil {
		return fmt.Errorf("detach NIC %q from VM %q: %w", id, m.id, err)
	}
	return nil
}

// nicIDRoom is how long a card's id may be.
const nicIDRoom = 32

// checkNIC refuses a card that cannot be.
func checkNIC(nic virtcontainers.NIC) error {
	invalid := func(format string, args ...any) error {
		return fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), errdefs.ErrInvalidArgument)
	}
	switch {
	case !isID(nic.ID, nicIDRoom):
		return invalid("an id is a letter, then letters and digits, %d in all at most", nicIDRoom)
	case len(nic.MAC) != 6 || nic.MAC[0]&1 != 0 || nic.MAC.String() == "00:00:00:00:00:00":
		return invalid("%q is no address of one Ethernet card", nic.MAC)
	case nic.MTU != 0 && (nic.MTU < minMTU || nic.MTU > maxMTU):
		return invalid("an MTU of %d: use %d to %d", nic.MTU, minMTU, maxMTU)
	case len(nic.Queues) < 1 || len(nic.Queues) > maxQueues:
		return invalid("%d queues: use 1 to %d", len(nic.Queues), maxQueues)
	case len(nic.VHost) != 0 && len(nic.VHost) != len(nic.Queues):
		return invalid("%d vhost devices for %d queues: use as many, or none", len(nic.VHost), len(nic.Queues))
	}
	for i, f := range nic.Queues {
		if err := checkTap(f); err != nil {
			return invalid("queue %d is no tap with IFF_VNET_HDR: %v", i, err)
		}
	}
	for i, f := range nic.VHost {
		if err := checkVHost(f); err != nil {
			return invalid("vhost device %d is none: %v", i, err)
		}
	}
	return nil
}

// nicPlug is the id of a card's plug.
func nicPlug(id string) string { return "nic-" + id }

// nicArguments are those of device_add.
type nicArguments struct {
	Driver  string `json:"driver"`
	ID      string `json:"id"`
	Netdev  string `json:"netdev"`
	Bus     string `json:"bus"`
	Addr    string `json:"addr"`
	MAC     string `json:"mac"`
	MTU     int    `json:"host_mtu,omitempty"`
	MQ      bool   `json:"mq"`
	Vectors int    `json:"vectors"`
	ROMFile string `json:"romfile"`
	// Or a card on a conventional bus offers the old interface too, and takes the
	// bridge's few I/O ports for it.
	DisableLegacy string `json:"disable-legacy"`
}

func deviceArguments(nic virtcontainers.NIC, p *plug) nicArguments {
	return nicArguments{
		Driver: "virtio-net-pci",
		ID:     p.device,
		Netdev: p.device, // the host's side is named so too
		Bus:    hotplugBus,
		Addr:   p.address(),
		MAC:    nic.MAC.String(),
		MTU:    nic.MTU,
		MQ:     len(nic.Queues) > 1,
		// One for each direction of a queue, one for the control queue and one for
		// changes of the configuration.
		Vectors:       2*len(nic.Queues) + 2,
		DisableLegacy: "on",
	}
}

func (m *machine) plugNIC(ctx context.Context, nic virtcontainers.NIC) error {
	p, err := m.plugs.take(nicPlug(nic.ID))
	if err != nil {
		return err
	}
	defer p.leave()
	a := nicAttachment{machine: m, nic: nic, plug: p}
	if err = a.run(ctx); err == nil {
		return nil
	}
	undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	if left := a.undo(undo); left != nil {
		// The id stays taken: who detaches it tries again.
		return fmt.Errorf("%w; and then to undo it: %w", err, left)
	}
	return err
}

// nicAttachment is the way of one card into the machine. What was begun is undone as
// if it were done: a command that was given up may still be carried out.
type nicAttachment struct {
	machine *machine
	nic     virtcontainers.NIC
	plug    *plug

	passed         []string // names of the files in QEMU
	netdev, device bool     // begun
}

func (a *nicAttachment) run(ctx context.Context) error {
	queues, err := a.pass(ctx, "tap", a.nic.Queues)
	if err != nil {
		return err
	}
	vhost, err := a.pass(ctx, "vhost", a.nic.VHost)
	if err != nil {
		return err
	}
	a.netdev = true
	if err := a.machine.monitor.AddTap(ctx, a.plug.device, queues, vhost); err != nil {
		return err
	}
	a.passed = nil // used up
	a.device = true
	return a.machine.monitor.AddDevice(ctx, deviceArguments(a.nic, a.plug))
}

// pass hands files to QEMU and returns their names there.
func (a *nicAttachment) pass(ctx context.Context, kind string, files []*os.File) ([]string, error) {
	var names []string
	for i, f := range files {
		name := fmt.Sprintf("%s-%s%d", a.plug.device, kind, i)
		a.passed = append(a.passed, name)
		if err := a.machine.monitor.PassFile(ctx, name, f); err != nil {
			return nil, err
		}
		names = append(names, name)
	}
	return names, nil
}

func (a *nicAttachment) undo(ctx context.Context) error {
	var errs []error
	if a.device {
		errs = append(errs, a.machine.unplug(ctx, a.plug))
	}
	if a.netdev {
		errs = append(errs, a.machine.removeNetdev(ctx, a.plug))
	}
	for _, name := range a.passed {
		// Refused if it was used up, which is as good.
		var refused *qmp.Error
		if err := a.machine.monitor.CloseFile(ctx, name); !errors.As(err, &refused) {
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	a.machine.plugs.release(a.plug)
	return nil
}

func (m *machine) unplugNIC(ctx context.Context, id string) error {
	p, err := m.plugs.find(ctx, nicPlug(id))
	if err != nil {
		return err
	}
	defer p.leave()
	if err := m.unplug(ctx, p); err != nil {
		return err
	}
	if err := m.removeNetdev(ctx, p); err != nil {
		return err
	}
	m.plugs.release(p)
	return nil
}

func (m *machine) removeNetdev(ctx context.Context, p *plug) error {
	if err := m.monitor.DelNetdev(ctx, p.device); !qmp.IsNotFound(err) {
		return err
	}
	return nil // a wish of ours that was given up before
}
