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
#define USHER_STATUS 2 /* a stream: a byte for it to execute, and the end or a failure back */
#define USHER_STDIO 3
#define USHER_DESCRIPTORS 6

/* What a request may ask for. */
#define USHER_NO_NEW_PRIVILEGES 1
#define USHER_UMASK 2
#define USHER_OOM_SCORE_ADJ 4
#define USHER_HOME 8 /* the variable is to be had from the container's users */

/* A request begins with this. After it come the groups (uint32_t each), the limits,
 * and strings that end in a zero each: the directory, the name of the session keyring
 * (empty: none), the arguments, the variables. */
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

/* What is read from the stream of a process that did not come to execute its program. */
struct usher_failure {
	int32_t step, error; /* line of usher.c, errno */
};
