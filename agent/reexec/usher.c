/*
 * The usher is a process of the agent's program that makes processes in containers.
 * It waits outside of all of them, in C before the Go runtime would begin, and is
 * therefore small and has one thread: it forks in a fraction of the time that a new Go
 * program takes to begin. For each request it makes one process, in the cgroup of a
 * container. That either joins the namespaces of a container that there is (usher_enter.c),
 * or is the init of one that it makes (usher_init.c); it becomes as little as the request
 * says, and executes the program. It is the agent's child, not the usher's.
 *
 * It does what libcontainer does, in the same order, for what is ordinary: no user
 * namespace, terminal, seccomp filter and the like. Whatever fails here is tried again by
 * libcontainer, so nothing is explained here. What must not differ is what the program
 * may do.
 */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <linux/sched.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "usher_parts.h"

static _Alignas(8) char message[USHER_MESSAGE];

/* usher_fail ends a process that cannot go on, and tells where and why. */
void usher_fail(int status, const char *file, int line)
{
	struct usher_failure f = { line, errno, "" };
	const char *name = strrchr(file, '/');

	strncpy(f.file, name ? name + 1 : file, sizeof(f.file) - 1);
	if (write(status, &f, sizeof(f)) < 0)
		_exit(254);
	_exit(255);
}

/* make makes the process, in its PID namespace and cgroup, as a sibling. */
static int make(struct usher_parsed *r, const int *fds, int home)
{
	struct clone_args args = { .flags = CLONE_PARENT | CLONE_INTO_CGROUP, .cgroup = fds[USHER_CGROUP] };
	int joins = !r->build || r->build->flags & USHER_JOIN_PIDS, error;
	long pid;

	if (r->build)
		args.flags |= r->build->namespaces & ~CLONE_NEWCGROUP;
	if (joins && setns(fds[USHER_PIDFD], CLONE_NEWPID) < 0)
		return -errno;
	pid = syscall(SYS_clone3, &args, sizeof(args));
	if (pid == 0 && r->build)
		usher_init(r, fds, home);
	if (pid == 0)
		usher_enter(r, fds, home);
	error = errno;
	if (joins && setns(home, CLONE_NEWPID) < 0)
		_exit(1); /* nobody is let in at the wrong door */
	return pid < 0 ? -error : pid;
}

/* receive returns the size of a request, 0 if there will be none. */
static ssize_t receive(int *fds)
{
	union {
		struct cmsghdr hdr;
		char space[CMSG_SPACE(USHER_DESCRIPTORS * sizeof(int))];
	} control = { 0 };
	struct iovec iov = { message, sizeof(message) };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control) };
	ssize_t n;

	do
		n = recvmsg(USHER_SOCKET, &msg, MSG_CMSG_CLOEXEC);
	while (n < 0 && errno == EINTR);
	if (n <= 0 || msg.msg_flags & (MSG_TRUNC | MSG_CTRUNC) || control.hdr.cmsg_level != SOL_SOCKET ||
	    control.hdr.cmsg_type != SCM_RIGHTS ||
	    control.hdr.cmsg_len != CMSG_LEN(USHER_DESCRIPTORS * sizeof(int)))
		return 0;
	memcpy(fds, CMSG_DATA(&control.hdr), USHER_DESCRIPTORS * sizeof(int));
	return n;
}

static void __attribute__((noreturn)) serve(void)
{
	int home, fds[USHER_DESCRIPTORS], i;
	struct usher_parsed r;
	int32_t answer;
	ssize_t n;

	close_range(USHER_SOCKET + 1, ~0u, 0);
	home = open("/proc/self/ns/pid", O_RDONLY | O_CLOEXEC);
	/* A container's processes may not look into one of ours, as long as that is ours. */
	if (home < 0 || fcntl(USHER_SOCKET, F_SETFD, FD_CLOEXEC) < 0 || prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0 ||
	    prctl(PR_SET_NAME, USHER, 0, 0, 0) < 0)
		_exit(1);
	while ((n = receive(fds)) > 0) {
		answer = usher_parse(&r, message, n) < 0 ? -EINVAL : make(&r, fds, home);
		for (i = 0; i < USHER_DESCRIPTORS; i++)
			close(fds[i]);
		memset(message, 0, n); /* the next process has no business with it */
		if (send(USHER_SOCKET, &answer, sizeof(answer), MSG_NOSIGNAL) != sizeof(answer))
			break;
	}
	_exit(0); /* the agent is gone, and with it the guest */
}

/* Before libcontainer's constructor. */
static void __attribute__((constructor(101))) usher(int argc, char **argv)
{
	if (argc == 2 && !strcmp(argv[1], USHER) && getppid() == 1)
		serve();
}
