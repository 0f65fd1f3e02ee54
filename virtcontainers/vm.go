package virtcontainers

import (
	"context"
	"net"
	"os"
)

// Hypervisor starts virtual machines.
type Hypervisor interface {
	// Start starts a VM and returns once its process runs; the guest is then
	// still booting. When it fails nothing is left behind. The files in spec
	// stay the caller's, to be closed once Start has returned.
	Start(ctx context.Context, spec VMSpec) (VM, error)
}

// Cloner is a hypervisor that can save a machine, and start others where that one
// was saved.
//
// A template has only what its clones can have from their first moment: no share
// and no card or disk, which a clone is given while it runs; and it calls the host
// by a channel that is a clone's own.
type Cloner interface {
	Hypervisor
	// StartTemplate starts a machine that is to be saved, as Start does. Its memory
	// is the file memory, which has the memory's size and every user may write; it
	// stays the caller's. spec.Share must be nil, spec.Shared says what clones have.
	StartTemplate(ctx context.Context, spec VMSpec, memory *os.File) (Template, error)
	// StartClone starts a machine where another of the same spec was saved, but for
	// ID, Dir, NetNS and Share, and returns when it runs on. The saved files stay the
	// caller's. When it fails nothing is left behind.
	StartClone(ctx context.Context, spec VMSpec, saved Saved) (VM, error)
	// Fingerprint is text that differs wherever what was saved from a template of
	// spec could not be continued by StartClone, for all that the driver knows.
	Fingerprint(spec VMSpec) (string, error)
}

// Template is a machine that is to be saved.
type Template interface {
	VM
	// Save stops the guest for good and writes the state of the machine's devices to
	// a file from its beginning on; its memory is then in the template's file.
	Save(ctx context.Context, state *os.File) error
}

// Saved is a machine that was saved, for one clone.
type Saved struct {
	// State is that of the machine's devices: a file that is read from where it stands.
	State *os.File
	// Memory is the guest's memory: a file of its size that every user may open.
	Memory *os.File
	// Private says that the clone has the memory for itself, and its guest writes to
	// the file: every user must be able to. A clone with a share needs that. Else it
	// writes to copies of the pages that it changes, and never to the file.
	Private bool
	// Fill is called while the hypervisor starts, and returns when the memory is what
	// was saved. It may be nil.
	Fill func() error
}

// VM is one virtual machine. All methods may be called at any time and from any
// goroutine; after Done is closed, those that need the machine fail with
// errdefs.ErrUnavailable.
type VM interface {
	// PID is the host process that is the machine.
	PID() int
	// Channel returns the byte stream to the agent. It may be called once. It
	// waits, as long as ctx allows, until bytes can be exchanged; what is
	// written before the agent listens is kept for it.
	Channel(ctx context.Context) (net.Conn, error)
	// Done is closed once the machine's process is gone, for whatever reason.
	Done() <-chan struct{}
	// Err says why the machine ended: nil before Done is closed and after an
	// asked-for end, else an error that carries what Log returns.
	Err() error
	// Log returns the last lines of the guest's console and of the
	// hypervisor's own messages, for a person: at most 8 KiB of printable text.
	Log() string
	// AttachNIC plugs a card in. It returns when the machine has it; the guest
	// finds it soon after. errdefs.ErrAlreadyExists if the id is taken,
	// errdefs.ErrResourceExhausted if there is no slot.
	AttachNIC(ctx context.Context, nic NIC) error
	// DetachNIC unplugs a card and returns when the guest has let go of it.
	// errdefs.ErrNotFound if there is none of that id.
	DetachNIC(ctx context.Context, id string) error
	// AttachDisk plugs a disk in, as AttachNIC does a card, or puts it into the place
	// that the machine has for one of its ID (see VMSpec.Places), which the guest does
	// not notice. errdefs.ErrInvalidArgument if it is not of that place's size.
	AttachDisk(ctx context.Context, disk Disk) error
	// DetachDisk unplugs a disk, as DetachNIC does a card. What the guest has not
	// written by then is lost: it must have unmounted it.
	DetachDisk(ctx context.Context, id string) error
	// ResizeMemory gives the guest so many MiB of memory, or a little more, and
	// returns what it has then. It waits until the guest has taken all of what is
	// added, as long as ctx allows; the guest puts it to use at once. What is to be
	// taken away it only asks for: the guest gives back what it does not use, in its
	// time, and keeps at least what it began with. errdefs.ErrResourceExhausted for
	// more than the spec allows, errdefs.ErrNotImplemented if the machine cannot grow.
	ResizeMemory(ctx context.Context, mib uint64) (reached uint64, err error)
	// ReclaimMemory has the guest give back to the host, from now on, what memory it
	// does not use. It is for a machine that was cloned: others do from the start,
	// and to them it does nothing. errdefs.ErrNotImplemented if it cannot be.
	ReclaimMemory(ctx context.Context) error
	// Started tells that the machine's first container runs, which ends what the driver
	// does to make a start cheap. To a machine that has ended it does nothing.
	Started() error
	// Kill ends the machine at once and returns when its process is gone and
	// what the driver took for it is released. It may be called again.
	Kill(ctx context.Context) error
}

// VMSpec is what a machine is made of.
type VMSpec struct {
	// ID names the machine in messages and in the process list.
	ID string
	// Dir is a private directory of this VM that exists and is the caller's to
	// remove once the VM is gone.
	Dir string
	// VCPUs is the number of virtual CPUs that the guest begins with, at least 1.
	VCPUs uint32
	// MaxVCPUs is how many the machine has: those beyond VCPUs lie idle until the
	// guest takes them into use. What is not above VCPUs means no more than that.
	MaxVCPUs uint32
	// MemoryMiB is the guest's RAM, at least 64.
	MemoryMiB uint64
	// MaxMemoryMiB is how far it may grow while it runs; what is not above
	// MemoryMiB means that it does not.
	MaxMemoryMiB uint64
	// Kernel is the path of an uncompressed, PVH-bootable kernel (vmlinux).
	Kernel string
	// Image is the path of the guest's initramfs.
	Image string
	// KernelArgs are appended to the kernel's command line.
	KernelArgs []string
	// Share is a virtio-fs device, or nil.
	Share *Share
	// Shared says of a template that its clones have a share.
	Shared bool
	// Places are those for disks that a template and its clones have: each is a disk
	// of nothing until AttachDisk puts in one of its ID. A machine that boots has
	// none, it is plugged in there.
	Places []DiskPlace
	// NetNS is the path of the network namespace that the machine's process
	// runs in; empty is a new one, which is reached by the process's /proc.
	NetNS string
}

// Share is a virtio-fs device.
type Share struct {
	// Tag is the name by which the guest mounts it.
	Tag string
	// Socket is the hypervisor's end of a connection to the vhost-user daemon.
	Socket *os.File
}

// DiskPlace is where a clone can have a disk that its guest need not find, because it
// knew the place when it was saved.
type DiskPlace struct {
	// ID is that of the disk which may be put in.
	ID string
	// Bytes is its size, of whole sectors, as the guest knows it. The file of a disk
	// that is ReadOnly may have less: nothing that is in it names what lies behind.
	Bytes uint64
	// ReadOnly is as in Disk.
	ReadOnly bool
}

// NIC is a network card.
type NIC struct {
	// ID tells the cards of a machine apart: a letter, then letters and digits, 32 in
	// all at most.
	ID string
	// MAC is the card's address, as the guest sees it.
	MAC net.HardwareAddr
	// MTU is the largest packet in bytes; 0 is the guest's default.
	MTU int
	// Queues are the queues of one tap, opened with IFF_VNET_HDR, and VHost as
	// many open /dev/vhost-net, or none. They stay the caller's.
	Queues, VHost []*os.File
}

// Disk is a block device.
type Disk struct {
	// ID tells the disks of a machine apart: a letter, then letters and digits, 20 in
	// all at most. The guest knows the disk by it, as its serial number.
	ID string
	// File is what the disk holds: a regular file of whole sectors or a block device,
	// open for reading if ReadOnly is set, else for reading and writing. It stays the
	// caller's.
	File *os.File
	// ReadOnly says that the guest cannot write.
	ReadOnly bool
}
