package virtiofsd

import (
	"fmt"
	"strings"
)

// arguments returns the daemon's command line, without the program's name. fd is
// the listening socket that it inherits, files how many it may have open.
//
// Both are told the same: the guest's view is the only one that has to be exact
// at once, so its caches live for a second (cache=auto) unless configured
// otherwise; extended attributes are the host's own; locks are the guest's own
// affair, since nobody else uses these files; requests are served where they are
// read, as handing each to a thread of a pool costs more than it wins.
func arguments(b Binary, cfg Config, fd int, files uint64) []string {
	if b.Flavour == FlavourC {
		options := strings.Join([]string{
			"source=" + cfg.Dir,
			"sandbox=namespace",
			"cache=" + strings.Replace(cfg.Cache, CacheNever, "none", 1),
			"xattr",
			"announce_submounts",
			"no_posix_lock",
			"no_flock",
			"log_level=warn",
		}, ",")
		return []string{
			fmt.Sprintf("--fd=%d", fd),
			"--thread-pool-size=0",
			fmt.Sprintf("--rlimit-nofile=%d", files),
			"-f",
			"-o", options,
		}
	}
	return []string{
		fmt.Sprintf("--fd=%d", fd),
		"--shared-dir=" + cfg.Dir,
		"--sandbox=namespace",
		"--seccomp=kill",
		"--cache=" + cfg.Cache,
		"--xattr",
		"--announce-submounts",
		"--thread-pool-size=0",
		fmt.Sprintf("--rlimit-nofile=%d", files),
		"--log-level=warn",
	}
}
