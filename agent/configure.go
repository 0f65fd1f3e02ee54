package agent

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/containerd/errdefs"

	agentv1 "github.com/hyperhq/hyper/proto/hyper/agent/v1"
)

const (
	maxEntropy  = 512
	maxHostname = 64
)

// guest is what Configure makes of the machine itself.
type guest struct {
	log     *logger
	mu      sync.Mutex
	mounted map[string]*agentv1.Mount // by target
	shmSize uint64                    // of shmDir; 0: not mounted
}

// configure makes the booted guest one particular sandbox's. A second session
// may do it again.
func (a *Agent) configure(ctx context.Context, req *agentv1.ConfigureRequest) (*agentv1.ConfigureResponse, error) {
	sysctls, err := parseSysctls(req.GetSysctls())
	if err != nil {
		return nil, err
	}
	if now := req.GetNow(); now != nil {
		if err := setClock(now); err != nil {
			return nil, err
		}
	}
	if name := req.GetHostname(); name != "" {
		if err := setHostname(name); err != nil {
			return nil, err
		}
	}
	if err := addEntropy(req.GetEntropy()); err != nil {
		return nil, err
	}
	if err := a.prepare(ctx, req, sysctls); err != nil {
		return nil, err
	}
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return nil, fmt.Errorf("uname: %w", err)
	}
	a.phases.mark("configured")
	return &agentv1.ConfigureResponse{
		AgentVersion:  Version,
		KernelRelease: unix.ByteSliceToString(uts.Release[:]),
		Phases:        a.phases.all(),
	}, nil
}

// prepare makes what the sandbox's containers share: mounts and settings.
func (a *Agent) prepare(ctx context.Context, req *agentv1.ConfigureRequest, sysctls []sysctl) error {
	// The boot has mounts and settings of its own, which would hide these.
	if err := a.booted(ctx); err != nil {
		return err
	}
	if err := a.awaitMounts(ctx, req.GetMounts()); err != nil {
		return err
	}
	if err := a.guest.mount(ctx, req.GetMounts()); err != nil {
		return err
	}
	if err := a.guest.setShm(req.GetShmSize()); err != nil {
		return err
	}
	ofLinks, err := applySysctls(sysctls)
	if err != nil {
		return err
	}
	a.network.remember(ofLinks)
	return nil
}

// mount makes the mounts that are not there yet.
func (g *guest) mount(ctx context.Context, mounts []*agentv1.Mount) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, m := range mounts {
		if proto.Equal(g.mounted[m.GetTarget()], m) {
			continue
		}
		if len(g.mounted) >= maxMounts {
			return fmt.Errorf("the guest has %d mounts: %w", maxMounts, errdefs.ErrResourceExhausted)
		}
		if err := mountOne(ctx, m); err != nil {
			return err
		}
		g.mounted[m.GetTarget()] = m
	}
	return nil
}

func mountOne(ctx context.Context, m *agentv1.Mount) error {
	if m.GetType() == "virtiofs" {
		return mountShare(ctx, m)
	}
	return mount(m)
}

// setClock sets the guest's wall clock.
func setClock(now *timestamppb.Timestamp) error {
	if err := now.CheckValid(); err != nil {
		return fmt.Errorf("the host's time: %v: %w", err, errdefs.ErrInvalidArgument)
	}
	ts := unix.NsecToTimespec(now.AsTime().UnixNano())
	if err := unix.ClockSettime(unix.CLOCK_REALTIME, &ts); err != nil {
		return fmt.Errorf("setting the clock: %w", err)
	}
	return nil
}

func setHostname(name string) error {
	if len(name) > maxHostname {
		return fmt.Errorf("hostname of %d bytes, at most %d: %w", len(name), maxHostname, errdefs.ErrInvalidArgument)
	}
	if err := unix.Sethostname([]byte(name)); err != nil {
		return fmt.Errorf("setting the hostname: %w", err)
	}
	return nil
}

// addEntropy credits random bytes to the kernel's pool and has its generator
// take them up at once: two clones of one machine would else go on alike.
func addEntropy(random []byte) error {
	if len(random) == 0 {
		return nil
	}
	if len(random) > maxEntropy {
		return fmt.Errorf("%d bytes of entropy, at most %d: %w", len(random), maxEntropy, errdefs.ErrInvalidArgument)
	}
	f, err := os.OpenFile("/dev/urandom", os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("adding entropy: %w", err)
	}
	defer f.Close()
	// struct rand_pool_info: bits, bytes, then the bytes.
	info := make([]byte, 8, 8+maxEntropy)
	binary.NativeEndian.PutUint32(info, uint32(len(random)*8))
	binary.NativeEndian.PutUint32(info[4:], uint32(len(random)))
	info = append(info, random...)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), unix.RNDADDENTROPY, uintptr(unsafe.Pointer(&info[0])))
	if errno != 0 {
		return fmt.Errorf("adding entropy: %w", errno)
	}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), unix.RNDRESEEDCRNG, 0); errno != 0 {
		return fmt.Errorf("reseeding the random generator: %w", errno)
	}
	return nil
}
