/*
 * The usher is a process of the agent's program that lets processes into containers.
 * It waits outside of all of them, in C before the Go runtime would begin, and is
 * therefore small and has one thread: it forks in a fraction of the time that a new Go
 * program takes to begin. For each request it makes one process, which joins the
 * namespaces of a container, becomes as little as the request says, and executes the
 * program. That process is the agent's child, not the usher's.
 *
 * It does what libcontainer does for an exec, in the same order, for what is ordinary:
 * no user namespace, terminal, seccomp filter and the like. Whatever fails here is tried
 * again by libcontainer, so nothing is explained here. What must not differ is what
 * the program may do.
 */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/close_range.h>
#include <linux/keyctl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <grp.h>
#include <unistd.h>

#include "slack.h"
#include "usher.h"

/* The namespaces to join. That of processes is the usher's to choose, by forking there. */
#define JOINED (CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWNET)

/* try ends the process if what it tries fails. */
#define try(what) \
	do { \
		if ((what) < 0) \
			fail(status, __LINE__); \
	} while (0)

/* A request, taken apart. What it points to is in the message. */
struct request {
	struct usher_request *head;
	gid_t *groups;
	struct usher_limit *limits;
	char *directory, *keyring, **args, **variables;
};

static _Alignas(8) char message[USHER_MESSAGE];
static char *strings[USHER_STRINGS + 3]; /* two ends, and a place for HOME */

static void __attribute__((noreturn)) fail(int status, int line)
{
	struct usher_failure f = { line, errno };

	if (write(status, &f, sizeof(f)) < 0)
		_exit(254);
	_exit(255);
}

/* next_string returns the string at *at, and moves on to the next. */
static char *next_string(char **at, const char *end)
{
	char *s = *at, *zero = memchr(s, 0, end - s);

	if (!zero)
		return NULL;
	*at = zero + 1;
	return s;
}

/* next_strings fills list with n strings and an end. */
static int next_strings(char **list, size_t n, char **at, const char *end)
{
	size_t i;

	for (i = 0; i < n; i++) {
		list[i] = next_string(at, end);
		if (!list[i])
			return -1;
	}
	list[n] = NULL;
	return 0;
}

static int parse(struct request *r, size_t size)
{
	char *at = message, *end = message + size;
	size_t fixed;

	r->head = (struct usher_request *)at;
	if (size < sizeof(*r->head))
		return -1;
	at += sizeof(*r->head);
	fixed = (r->head->groups + 1ul) / 2 * 8 + r->head->limits * sizeof(*r->limits);
	if (fixed > (size_t)(end - at) || r->head->args < 1 ||
	    (uint64_t)r->head->args + r->head->variables > USHER_STRINGS)
		return -1;
	r->groups = (gid_t *)at;
	at += (r->head->groups + 1ul) / 2 * 8;
	r->limits = (struct usher_limit *)at;
	at += r->head->limits * sizeof(*r->limits);
	r->directory = next_string(&at, end);
	r->keyring = r->directory ? next_string(&at, end) : NULL;
	r->args = strings;
	r->variables = strings + r->head->args + 1;
	if (!r->keyring || next_strings(r->args, r->head->args, &at, end) < 0 ||
	    next_strings(r->variables, r->head->variables, &at, end) < 0)
		return -1;
	return at == end ? 0 : -1;
}

static char *variable(const struct request *r, const char *name)
{
	size_t len = strlen(name);
	char **v;

	for (v = r->variables; *v; v++)
		if (!strncmp(*v, name, len) && (*v)[len] == '=')
			return *v + len + 1;
	return NULL;
}

/* field cuts the next field off a line of /etc/passwd. */
static char *field(char **line)
{
	char *s = *line, *end = s ? strchr(s, ':') : NULL;

	if (end)
		*end++ = 0;
	*line = end;
	return s;
}

/* home_of returns the home directory of a user, as the container's /etc/passwd has it, or
 * NULL where the file has anything odd in it before that. */
static const char *home_of(uid_t uid, char *buf, size_t size)
{
	int fd = open("/etc/passwd", O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	struct stat st;
	size_t len = 0;
	ssize_t n;
	char *line, *next;

	if (fd < 0)
		return errno == ENOENT ? "/" : NULL;
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)) {
		close(fd);
		return NULL;
	}
	while ((n = read(fd, buf + len, size - 1 - len)) > 0)
		len += n;
	close(fd);
	if (n < 0 || len == size - 1 || memchr(buf, 0, len))
		return NULL; /* too large, or not a text */
	buf[len] = 0;
	for (line = buf; *line; line = next) {
		char *id, *end;

		next = strchr(line, '\n');
		if (!next)
			next = line + strlen(line);
		else
			*next++ = 0;
		if (!*line)
			continue;
		if (!field(&line) || !field(&line) || !(id = field(&line)) || !field(&line) || !field(&line) || !line)
			return NULL;
		if (*id < '0' || *id > '9' || strlen(id) > 10)
			return NULL;
		if (strtoul(id, &end, 10) == uid && !*end)
			return field(&line);
		if (*end)
			return NULL;
	}
	return "/";
}

static int set_home(struct request *r)
{
	static char buf[16384], home[4096] = "HOME=";
	const char *dir = home_of(r->head->uid, buf, sizeof(buf));
	size_t len = dir ? strlen(dir) : sizeof(home);

	if (len > sizeof(home) - 6)
		return -1;
	memcpy(home + 5, dir, len + 1);
	r->variables[r->head->variables] = home;
	r->variables[r->head->variables + 1] = NULL;
	return 0;
}

static int set_oom_score_adj(int score)
{
	char digits[16], *d = digits + sizeof(digits);
	unsigned int left = score < 0 ? -score : score;
	int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
	ssize_t len;

	if (fd < 0)
		return -1;
	do
		*--d = '0' + left % 10;
	while (left /= 10);
	if (score < 0)
		*--d = '-';
	len = digits + sizeof(digits) - d;
	if (write(fd, d, len) != len)
		return -1;
	return close(fd);
}

static int join_session_keyring(const char *name)
{
	if (!*name || syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, name) >= 0)
		return 0;
	return errno == ENOSYS ? 0 : -1; /* a kernel without keys */
}

/* use_all_cpus undoes what the usher may have inherited. The cgroup's are the limit. */
static void use_all_cpus(void)
{
	static unsigned char all[1024];

	memset(all, 0xff, sizeof(all));
	syscall(SYS_sched_setaffinity, 0, sizeof(all), all);
}

static int set_limits(const struct request *r)
{
	uint32_t i;

	for (i = 0; i < r->head->limits; i++) {
		struct rlimit limit = { r->limits[i].soft, r->limits[i].hard };

		if (setrlimit(r->limits[i].resource, &limit) < 0)
			return -1;
	}
	return 0;
}

/* own_stdio gives the standard files to the user that is to have them. */
static int own_stdio(uid_t uid)
{
	struct stat st;
	int fd;

	for (fd = 0; fd < 3; fd++) {
		if (fstat(fd, &st) < 0)
			return -1;
		if (st.st_uid == uid || (S_ISCHR(st.st_mode) && st.st_rdev == makedev(1, 3)))
			continue;
		if (fchown(fd, uid, -1) < 0 && errno != EPERM && errno != EROFS)
			return -1;
	}
	return 0;
}

static int drop_bounding(uint64_t keep)
{
	int cap;

	for (cap = 0; cap < 64; cap++) {
		if (keep & 1ull << cap)
			continue;
		if (prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) < 0)
			return errno == EINVAL && cap > CAP_WAKE_ALARM ? 0 : -1; /* the kernel knows no more */
	}
	return 0;
}

static int set_capabilities(const struct usher_request *h)
{
	struct __user_cap_header_struct hdr = { _LINUX_CAPABILITY_VERSION_3, 0 };
	struct __user_cap_data_struct data[2] = {
		{ h->effective, h->permitted, h->inheritable },
		{ h->effective >> 32, h->permitted >> 32, h->inheritable >> 32 },
	};
	int cap;

	if (syscall(SYS_capset, &hdr, data) < 0 || prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0)
		return -1;
	for (cap = 0; cap < 64; cap++)
		if (h->ambient & 1ull << cap && prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, cap, 0, 0) < 0)
			return -1;
	return 0;
}

/* become_user takes the user's ids, and goes to the directory: as root if root may, else
 * as the user. */
static int become_user(const struct request *r)
{
	int there = chdir(r->directory);

	if (there < 0 && errno != EPERM && errno != EACCES)
		return -1;
	if (drop_bounding(r->head->bounding) < 0 || prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) < 0 ||
	    own_stdio(r->head->uid) < 0 || setgroups(r->head->groups, r->groups) < 0 ||
	    setgid(r->head->gid) < 0 || setuid(r->head->uid) < 0)
		return -1;
	if (there < 0 && chdir(r->directory) < 0)
		return -1;
	return prctl(PR_SET_KEEPCAPS, 0, 0, 0, 0);
}

/* is_inside says whether the directory is in the container. The kernel begins the name of
 * one that is not with another character. */
static int is_inside(void)
{
	static char path[4096];

	return syscall(SYS_getcwd, path, sizeof(path)) > 0 && *path == '/';
}

static int is_program(const char *path)
{
	struct stat st;

	return stat(path, &st) == 0 && !S_ISDIR(st.st_mode) && faccessat(AT_FDCWD, path, X_OK, AT_EACCESS) == 0;
}

/* execute returns only if it cannot. */
static void execute(const struct request *r)
{
	static char path[4096];
	const char *dirs = variable(r, "PATH"), *name = r->args[0];
	size_t len = strlen(name);

	if (strchr(name, '/')) {
		if (is_program(name))
			execve(name, r->args, r->variables);
		return;
	}
	while (dirs && *dirs && len) {
		size_t dir = strcspn(dirs, ":");

		if (*dirs != '/' || dir + len + 2 > sizeof(path))
			return; /* relative to wherever it is: not here */
		memcpy(path, dirs, dir);
		path[dir] = '/';
		memcpy(path + dir + 1, name, len + 1);
		if (is_program(path)) {
			execve(path, r->args, r->variables);
			return;
		}
		dirs += dir + (dirs[dir] == ':');
	}
	errno = ENOENT;
}

/* is_own_user_namespace says whether a process is in the caller's: that nobody can join. */
static int is_own_user_namespace(int pidfd)
{
	return setns(pidfd, CLONE_NEWUSER) < 0 && errno == EINVAL;
}

/* await_go waits until the agent knows of this process. One that it does not know must not
 * execute: it would be nobody's, and libcontainer would do the same once more. */
static void await_go(int status)
{
	char go;
	ssize_t n;

	do
		n = read(status, &go, 1);
	while (n < 0 && errno == EINTR);
	if (n != 1)
		_exit(255);
}

/* enter is the life of a process that was let in. Of what it has, the container's
 * processes shall see nothing. */
static void __attribute__((noreturn)) enter(struct request *r, const int *fds, int home)
{
	const struct usher_request *h = r->head;
	int status = fds[USHER_STATUS], i;

	/* The container sees this process already. */
	try(close(USHER_SOCKET));
	try(close(home));
	try(close(fds[USHER_CGROUP]));
	if (h->flags & USHER_OOM_SCORE_ADJ)
		try(set_oom_score_adj(h->oom_score_adj)); /* /proc is the guest's as yet */
	for (i = 0; i < 3; i++)
		try(dup3(fds[USHER_STDIO + i], i, 0));
	try(setns(fds[USHER_PIDFD], JOINED));
	try(is_own_user_namespace(fds[USHER_PIDFD]) - 1);
	/* Nothing that is ours may be here when a path is looked up that others have made. */
	try(close_range(3, status - 1, 0));
	try(close_range(status + 1, ~0u, 0));

	try(setsid());
	try(join_session_keyring(r->keyring));
	use_all_cpus();
	try(prctl(PR_SET_TIMERSLACK, USUAL_SLACK, 0, 0, 0));
	try(set_limits(r));
	if (h->flags & USHER_NO_NEW_PRIVILEGES)
		try(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	if (h->flags & USHER_UMASK)
		umask(h->umask);
	if (h->flags & USHER_HOME)
		try(set_home(r));
	try(become_user(r));
	try(is_inside() - 1);
	try(set_capabilities(h));
	await_go(status);
	execute(r);
	fail(status, __LINE__);
}

/* let_in makes the process in the container's PID namespace and cgroup, as a sibling. */
static int let_in(struct request *r, const int *fds, int home)
{
	struct clone_args args = { .flags = CLONE_PARENT | CLONE_INTO_CGROUP, .cgroup = fds[USHER_CGROUP] };
	long pid;
	int error;

	if (setns(fds[USHER_PIDFD], CLONE_NEWPID) < 0)
		return -errno;
	pid = syscall(SYS_clone3, &args, sizeof(args));
	if (pid == 0)
		enter(r, fds, home);
	error = errno;
	if (setns(home, CLONE_NEWPID) < 0)
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
	struct request r;
	int32_t answer;
	ssize_t n;

	close_range(USHER_SOCKET + 1, ~0u, 0);
	home = open("/proc/self/ns/pid", O_RDONLY | O_CLOEXEC);
	/* A container's processes may not look into one of ours, as long as that is ours. */
	if (home < 0 || fcntl(USHER_SOCKET, F_SETFD, FD_CLOEXEC) < 0 || prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0 ||
	    prctl(PR_SET_NAME, USHER, 0, 0, 0) < 0)
		_exit(1);
	while ((n = receive(fds)) > 0) {
		answer = parse(&r, n) < 0 ? -EINVAL : let_in(&r, fds, home);
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
