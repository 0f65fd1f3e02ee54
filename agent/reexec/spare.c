/*
 * A container's init begins as a new process of the agent's program, in which
 * libcontainer's nsexec() makes the namespaces before the Go runtime starts. When
 * a spare init waits (spare.go), this hands it over to that, before nsexec() runs,
 * and ends as nsexec() would: having told libcontainer the pid of the init.
 *
 * Whatever is out of the ordinary is left to nsexec().
 */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "spare.h"

/* Of libcontainer's bootstrap message: see its message_linux.go. */
#define INIT_MSG 62000
#define CLONE_FLAGS_ATTR 27281
#define OOM_SCORE_ADJ_ATTR 27286
#define ROOTLESS_EUID_ATTR 27287

/* The namespaces that a spare has, and those that it can yet get. */
#define HAS (CLONE_NEWPID | CLONE_NEWNS)
#define CAN (CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNET | CLONE_NEWCGROUP)

/* No process ever has this pid: it is above what Linux allows. */
#define NO_PID (4 * 1024 * 1024 + 1)

extern char **environ;

struct request {
	unsigned int size; /* of the message */
	unsigned int cloneflags;
	char oom_score_adj[16]; /* empty: as it is */
};

static int connect_spare(void)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX, .sun_path = SPARE_SOCKET };
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return -1;
	if (connect(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0) {
		close(fd);
		return -1;
	}
	return fd;
}

/* peek reads the bootstrap message, which stays there for nsexec(). */
static int peek(int fd, struct request *r)
{
	_Alignas(struct nlmsghdr) char data[4096];
	struct nlmsghdr *hdr = (struct nlmsghdr *)data;
	ssize_t n = recv(fd, data, sizeof(data), MSG_PEEK);
	size_t at;

	/* It is written by one call, so that a part of it is a message too long. */
	if (n < NLMSG_HDRLEN || hdr->nlmsg_len != n || hdr->nlmsg_type != INIT_MSG)
		return -1;
	r->size = n;
	for (at = NLMSG_HDRLEN; at + NLA_HDRLEN <= (size_t)n;) {
		struct nlattr *attr = (struct nlattr *)(data + at);
		const char *value = data + at + NLA_HDRLEN;
		size_t len = attr->nla_len - NLA_HDRLEN;

		if (attr->nla_len < NLA_HDRLEN || at + attr->nla_len > (size_t)n)
			return -1;
		switch (attr->nla_type) {
		case CLONE_FLAGS_ATTR:
			if (len != sizeof(r->cloneflags))
				return -1;
			memcpy(&r->cloneflags, value, len);
			break;
		case OOM_SCORE_ADJ_ATTR:
			if (len >= sizeof(r->oom_score_adj))
				return -1;
			memcpy(r->oom_score_adj, value, len);
			r->oom_score_adj[len] = 0;
			break;
		case ROOTLESS_EUID_ATTR:
			if (len < 1 || *value)
				return -1;
			break;
		default:
			return -1; /* paths to join, or a user namespace */
		}
		at += NLA_ALIGN(attr->nla_len);
	}
	return (r->cloneflags & HAS) == HAS && !(r->cloneflags & ~(HAS | CAN)) ? 0 : -1;
}

static int write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	ssize_t n, len = strlen(text);

	if (fd < 0)
		return -1;
	n = write(fd, text, len);
	close(fd);
	return n == len ? 0 : -1;
}

/* Of the C library as little as can be: an emulator translates all of it first. */

/* append puts text at the end of a string, and number its digits. Both return where the
 * string ends then; there must be room. */
static char *append(char *end, const char *text)
{
	return stpcpy(end, text);
}

static char *append_number(char *end, unsigned int n)
{
	char digits[12], *d = digits + sizeof(digits);

	*--d = 0;
	do
		*--d = '0' + n % 10;
	while (n /= 10);
	return append(end, d);
}

/* read_line reads the first line of a file, without its end. */
static int read_line(const char *path, char *line, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n;
	char *end;

	if (fd < 0)
		return -1;
	n = read(fd, line, size - 1);
	close(fd);
	if (n < 0)
		return -1;
	line[n] = 0;
	end = strchr(line, '\n');
	if (!end)
		return -1;
	*end = 0;
	return 0;
}

/* enroll puts the spare where libcontainer has put this process. */
static int enroll(pid_t pid, const struct request *r)
{
	char line[4096], path[4200], text[24];

	if (read_line("/proc/self/cgroup", line, sizeof(line)) < 0 || strncmp(line, "0::/", 4))
		return -1;
	append(append(append(path, "/sys/fs/cgroup"), line + 3), "/cgroup.procs");
	append_number(text, pid);
	if (write_file(path, text) < 0)
		return -1;
	if (!*r->oom_score_adj)
		return 0;
	append(append_number(append(path, "/proc/"), pid), "/oom_score_adj");
	return write_file(path, r->oom_score_adj);
}

/* tell_pid answers as libcontainer's nsexec() does. */
static int tell_pid(int init, pid_t pid)
{
	char text[80], *end = append(text, "{\"stage1_pid\":");
	ssize_t len;

	end = append(append_number(end, NO_PID), ",\"stage2_pid\":");
	end = append(append_number(end, pid), "}\n");
	len = end - text;
	return write(init, text, len) == len ? 0 : -1;
}

/* hand_over sends all that the spare needs, and waits until it has taken it. */
static int hand_over(int spare, const struct request *r)
{
	static char message[SPARE_MESSAGE];
	union {
		struct cmsghdr hdr;
		char space[CMSG_SPACE(SPARE_DESCRIPTORS * sizeof(int))];
	} control = { 0 };
	struct iovec iov = { .iov_base = message };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control };
	unsigned int head[2] = { r->cloneflags & CAN, 0 };
	int fds[SPARE_DESCRIPTORS], n = 0;
	char *cwd = message + sizeof(head), answer, **e;

	if (!getcwd(cwd, 4096))
		return -1;
	head[1] = strlen(cwd);
	memcpy(message, head, sizeof(head));
	iov.iov_len = sizeof(head) + head[1];
	for (e = environ; *e; e++) {
		size_t len = strlen(*e) + 1;

		if (iov.iov_len + len > sizeof(message))
			return -1;
		memcpy(message + iov.iov_len, *e, len);
		iov.iov_len += len;
	}
	for (; n < spare; n++)
		fds[n] = n;
	control.hdr.cmsg_level = SOL_SOCKET;
	control.hdr.cmsg_type = SCM_RIGHTS;
	control.hdr.cmsg_len = CMSG_LEN(n * sizeof(int));
	memcpy(CMSG_DATA(&control.hdr), fds, n * sizeof(int));
	msg.msg_controllen = CMSG_SPACE(n * sizeof(int));
	if (sendmsg(spare, &msg, MSG_NOSIGNAL) != (ssize_t)iov.iov_len)
		return -1;
	return recv(spare, &answer, 1, 0) == 1 ? 0 : -1;
}

/* in_row says whether the descriptors below one follow each other without a gap. */
static int in_row(int end)
{
	int fd = 0;

	while (fd < end && fcntl(fd, F_GETFD) >= 0)
		fd++;
	return fd == end && end <= SPARE_DESCRIPTORS;
}

static void try_spare(int spare, int init)
{
	struct request r = { 0 };
	struct ucred peer;
	socklen_t len = sizeof(peer);
	char used[4096], mine;

	if (!in_row(spare) || peek(init, &r) < 0 || getsockopt(spare, SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0)
		return;
	/* It greets one at a time. To another it hangs up, having become an init. */
	if (recv(spare, &mine, 1, 0) != 1)
		return;
	/* From here on it becomes this container's init, or is of no use to any. */
	if (enroll(peer.pid, &r) < 0 || hand_over(spare, &r) < 0) {
		kill(peer.pid, SIGKILL);
		return;
	}
	/* What comes next on this socket is for the init, which does not read before it is told. */
	if (recv(init, used, r.size, MSG_WAITALL) != (ssize_t)r.size ||
	    tell_pid(init, peer.pid) < 0 ||
	    send(spare, "", 1, MSG_NOSIGNAL) != 1)
		_exit(1);
	_exit(0);
}

/* Before constructors without a priority, nsexec()'s among them. */
static void __attribute__((constructor(101))) spare(void)
{
	const char *type = getenv("_LIBCONTAINER_INITTYPE"), *pipe = getenv("_LIBCONTAINER_INITPIPE");
	int fd;

	if (!type || strcmp(type, "standard") || !pipe)
		return;
	fd = connect_spare();
	if (fd < 0)
		return;
	try_spare(fd, atoi(pipe));
	close(fd);
}
