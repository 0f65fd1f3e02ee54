/* What the usher and the agent agree on. See usher.c. */

#include <stdint.h>

/* The usher's first argument, and the descriptor of its socket to the agent. */
#define USHER "usher"
#define USHER_SOCKET 3

#define USHER_MESSAGE 65536
#define USHER_STRINGS 4096 /* arguments and variables, together at most */

/* The descriptors that come with a request, in this order. The standard ones come last. */
#define USHER_PIDFD 0  /* of the container's init, whose namespaces are joined */
#define USHER_CGROUP 1 /* the directory of the cgroup to be in */
#define USHER_STATUS 2 /* a stream: see below */
#define USHER_STDIO 3
#define USHER_DESCRIPTORS 6

/* For a process that enters a container, a byte on the stream lets it execute its program,
 * and there the end or a failure comes back. A container's init first tells that it waits,
 * with a byte; is let execute its program by one; and tells with another that it does. */
#define USHER_WAITS 'w'
#define USHER_GOES 'g'

/* What a request may ask for. */
#define USHER_NO_NEW_PRIVILEGES 1
#define USHER_UMASK 2
#define USHER_OOM_SCORE_ADJ 4
#define USHER_HOME 8  /* the variable is to be had from the container's users */
#define USHER_BUILD 16 /* the process is the init of a container that it makes */

/* A request begins with this. After it come a usher_build, if asked for; the groups
 * (uint32_t each, and another if that makes them even), the limits, the mounts, the devices;
 * and strings that end in a zero each: the directory, the name of the session keyring
 * (empty: none), the arguments, the variables, and what of a container is one. */
struct usher_request {
	uint64_t bounding, effective, permitted, inheritable, ambient; /* capabilities */
	uint32_t flags, uid, gid, umask;
	int32_t oom_score_adj;
	uint32_t groups, limits, args, variables;
	uint32_t unused;
};

struct usher_limit {
	uint64_t resource, soft, hard;
};

/* What a container may ask for. */
#define USHER_JOIN_PIDS 1     /* its PID namespace is that of USHER_PIDFD */
#define USHER_LOOPBACK 2      /* the loopback of its own network is set up */
#define USHER_NODES 4         /* /dev is filled */
#define USHER_READONLY_ROOT 8

/* Its strings: the root file system, the names of host and domain (empty: none); source,
 * target, type and data of each mount; the paths of the devices, the paths to make
 * read-only, those to mask; name below /proc/sys and value of each sysctl. */
struct usher_build {
	uint32_t namespaces; /* to make, as for clone(2) */
	uint32_t flags;
	uint32_t propagation; /* of the root, as for mount(2); 0: none is set */
	uint32_t mounts, devices, readonly, masked, sysctls;
};

#define USHER_MOUNT_BIND 1
#define USHER_MOUNT_ATTRIBUTES 2 /* a bind has those of its flags, not those of its source */
#define USHER_MOUNT_READONLY 4   /* it is made read-only when all is made */
#define USHER_MOUNT_NO_LINKS 8   /* no link may be on the way to its target */
#define USHER_MOUNT_MODE 16      /* its root has the mode of what it is mounted on */

struct usher_mount {
	uint64_t flags;       /* as for mount(2) */
	uint32_t propagation; /* as for mount(2); 0: none is set */
	uint32_t how;         /* USHER_MOUNT_* */
};

struct usher_device {
	uint64_t number;
	uint32_t mode, uid, gid, unused;
};

/* What is read from the stream of a process that did not come to execute its program. */
struct usher_failure {
	int32_t line, error; /* of the file, errno */
	char file[24];
};
