package virtcontainers

import (
	"fmt"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// DefaultHookTimeout bounds a hook that has no timeout of its own and that
// somebody waits for.
const DefaultHookTimeout = 2 * time.Minute

// planHooks keeps on the host the hooks that run in the runtime's namespace, and
// sends the container's to the guest. A createContainer hook is a program of the
// host that runs in the container's namespaces: the share exposes its file, so
// it must need no other (a static program). See the OCI runtime specification,
// "POSIX-platform Hooks".
func (p *Plan) planHooks(at Placement) error {
	hooks := p.Guest.Hooks
	if hooks == nil {
		return nil
	}
	//lint:ignore SA1019 prestart is deprecated, and still what many tools write
	prestart := hooks.Prestart
	p.Hooks = HostHooks{
		Created: append(prestart, hooks.CreateRuntime...),
		Started: hooks.Poststart,
		Stopped: hooks.Poststop,
	}
	p.Guest.Hooks = nil
	if len(hooks.CreateContainer)+len(hooks.StartContainer) == 0 {
		return nil
	}
	p.Guest.Hooks = &specs.Hooks{StartContainer: hooks.StartContainer}
	for i, h := range hooks.CreateContainer {
		if len(h.Args) == 0 {
			h.Args = []string{h.Path}
		}
		if h.Timeout == nil {
			// Create waits for it.
			seconds := int(DefaultHookTimeout.Seconds())
			h.Timeout = &seconds
		}
		h.Path = p.share(at, HostMount{
			Type:     "bind",
			Source:   h.Path,
			Options:  []string{"bind"},
			Target:   fmt.Sprintf("%s/%d", hookGroup, i),
			ReadOnly: true,
		})
		p.Guest.Hooks.CreateContainer = append(p.Guest.Hooks.CreateContainer, h)
	}
	return nil
}
