/*
 * A container's init, from its first moment in namespaces of its own to the container's
 * program. What it makes of its root file system, and in which order, is libcontainer's way
 * (rootfs_linux.go, standard_init_linux.go). Whatever it does not find as it should be ends
 * it, and libcontainer then says what is to be done about it.
 */

#define _GNU_SOURCE
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/keyctl.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "usher_parts.h"

#define MAY_SEARCH 0x80000 /* of a key's permissions: its owner may search it */

/* let_search lets the owner of a keyring search it. */
static int let_search(long keyring)
{
	char text[512], *perm = text;
	long n = syscall(SYS_keyctl, KEYCTL_DESCRIBE, keyring, text, sizeof(text) - 1);
	int i;

	if (n < 0 || (size_t)n >= sizeof(text))
		return -1;
	text[n] = 0;
	for (i = 0; perm && i < 3; i++) /* after type, user and group */
		if ((perm = strchr(perm, ';')))
			perm++;
	if (!perm)
		return -1;
	return syscall(SYS_keyctl, KEYCTL_SETPERM, keyring, strtoul(perm, NULL, 16) | MAY_SEARCH);
}

static int set_up_loopback(void)
{
	struct ifreq lo = { .ifr_name = "lo", .ifr_flags = IFF_UP };
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (fd < 0 || ioctl(fd, SIOCSIFFLAGS, &lo) < 0)
		return -1;
	return close(fd);
}

/* write_sysctls sets them by the guest's /proc, which shows each process its own. */
static void write_sysctls(const struct usher_parsed *r, int status)
{
	char path[512] = "/proc/sys/", *const below = path + strlen(path), *strings = r->sysctls;
	uint32_t i;

	for (i = 0; i < r->build->sysctls; i++) {
		const char *name = usher_next(&strings), *value = usher_next(&strings);
		ssize_t len = strlen(value);
		int fd;

		try(strlen(name) < sizeof(path) - (below - path) ? 0 : -1);
		usher_append(below, name);
		try(fd = open(path, O_WRONLY | O_TRUNC | O_CLOEXEC));
		try(write(fd, value, len) == len ? 0 : -1);
		close(fd);
	}
}

/* detach_parent keeps mounts of the container from the guest: of the mount that the root
 * file system is in none is to be seen there. */
static int detach_parent(const char *rootfs, uint32_t propagation)
{
	unsigned long how = propagation & MS_SLAVE ? MS_SLAVE : MS_PRIVATE;
	char path[4096], *slash;

	if (strlen(rootfs) >= sizeof(path))
		return -1;
	strcpy(path, rootfs);
	while (mount("", path, "", how, "") < 0) {
		slash = strrchr(path, '/');
		if (errno != EINVAL || !slash || !slash[1])
			return -1; /* not for being no mount, or nothing is above it */
		slash[slash == path] = 0;
	}
	return 0;
}

/* prepare_root makes the root file system a mount, and opens it. */
static int prepare_root(const struct usher_parsed *r, int status)
{
	uint32_t propagation = r->build->propagation;
	int root;

	try(mount("", "/", "", propagation ? propagation : MS_SLAVE | MS_REC, ""));
	try(detach_parent(r->rootfs, propagation));
	try(mount(r->rootfs, r->rootfs, "bind", MS_BIND | MS_REC, ""));
	try(root = open(r->rootfs, O_PATH | O_DIRECTORY | O_CLOEXEC));
	return root;
}

/* enter_root leaves the guest's root for the container's. */
static void enter_root(const struct usher_parsed *r, int root, int status)
{
	uint32_t propagation = r->build->propagation;
	int old;

	try(old = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC));
	try(fchdir(root));
	try(syscall(SYS_pivot_root, ".", "."));
	try(fchdir(old));
	try(mount("", ".", "", MS_SLAVE | MS_REC, ""));
	try(umount2(".", MNT_DETACH));
	try(chdir("/"));
	close(old);
	close(root);
	if (propagation && !(propagation & (MS_PRIVATE | MS_SLAVE)))
		try(mount("", "/", "", propagation, ""));
}

static int is_null(const struct stat *st)
{
	return S_ISCHR(st->st_mode) && st->st_rdev == makedev(1, 3);
}

/* use_own_null has standard files that are the guest's null device be the container's. */
static int use_own_null(void)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC), fd;
	struct stat st;

	if (null < 0 || fstat(null, &st) < 0 || !is_null(&st))
		return -1;
	for (fd = 0; fd < 3; fd++)
		if (fstat(fd, &st) < 0 || (is_null(&st) && dup3(null, fd, 0) < 0))
			return -1;
	return close(null);
}

/* make_directories makes a directory, and those that it is in. */
static int make_directories(const char *path)
{
	char part[4096], *slash;
	struct stat st;

	if (stat(path, &st) == 0)
		return S_ISDIR(st.st_mode) ? 0 : -1;
	if (strlen(path) >= sizeof(part))
		return -1;
	strcpy(part, path);
	for (slash = strchr(part + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
		*slash = 0;
		if (mkdir(part, 0755) < 0 && errno != EEXIST)
			return -1;
		*slash = '/';
	}
	return mkdir(path, 0755);
}

static void build(const struct usher_parsed *r, int status)
{
	const struct usher_build *b = r->build;
	int root = prepare_root(r, status);

	usher_mount_all(r, root, status);
	if (b->flags & USHER_NODES)
		usher_make_devices(r, root, status);
	enter_root(r, root, status);
	if (b->flags & USHER_NODES)
		try(use_own_null());
	try(make_directories(r->directory));
	usher_end_mounts(r, status);
	umask(r->head->flags & USHER_UMASK ? r->head->umask : 022);
	if (*r->hostname)
		try(sethostname(r->hostname, strlen(r->hostname)));
	if (*r->domainname)
		try(setdomainname(r->domainname, strlen(r->domainname)));
	usher_make_readonly(r, status);
	usher_mask(r, status);
}

/* end ends the process as Go's runtime does, which libcontainer has here: what is the first
 * of its PID namespace would live on if that were left to the kernel. */
static void end(int signal)
{
	sigset_t none;

	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	if (signal != SIGQUIT)
		kill(getpid(), signal);
	_exit(2);
}

/* end_by_signals has a process that waits end by the signals that it is told to end by. */
static int end_by_signals(void)
{
	static const int signals[] = { SIGHUP, SIGINT, SIGQUIT, SIGTERM };
	struct sigaction action = { .sa_handler = end, .sa_flags = SA_RESETHAND };
	size_t i;

	for (i = 0; i < sizeof(signals) / sizeof(*signals); i++)
		if (sigaction(signals[i], &action, NULL) < 0)
			return -1;
	return 0;
}

/* say_why tells the container's owner, in libcontainer's words, why there is no program. */
static void say_why(const char *program, int error)
{
	static char text[8192];
	char *why;

	if (strlen(program) > sizeof(text) / 2)
		return;
	why = usher_append(usher_append(usher_append(text, "exec "), program), ": ");
	usher_append(usher_append(why, strerror(error)), "\n");
	*why = tolower(*why);
	if (write(2, text, strlen(text)) < 0)
		_exit(255); /* to nobody */
}

static void send_byte(int status, char byte)
{
	if (write(status, &byte, 1) != 1)
		_exit(255);
}

/* usher_init is the life of a container's init until it is the container's program. */
void usher_init(struct usher_parsed *r, const int *fds, int home)
{
	const struct usher_request *h = r->head;
	int status = fds[USHER_STATUS];
	const char *program;
	long keyring;

	try(close(USHER_SOCKET));
	try(close(home));
	if (h->flags & USHER_OOM_SCORE_ADJ)
		try(usher_set_oom_score_adj(h->oom_score_adj));
	try(usher_take_stdio(fds));
	/* Nothing that is ours may be here when a path is looked up that others have made. */
	try(usher_close_all_but(status));
	/* At its making it would have begun at the usher's cgroup. */
	if (r->build->namespaces & CLONE_NEWCGROUP)
		try(unshare(CLONE_NEWCGROUP));
	try(setsid());
	try(keyring = usher_join_session_keyring(r->keyring));
	if (keyring)
		try(let_search(keyring));
	if (r->build->flags & USHER_LOOPBACK)
		try(set_up_loopback());
	write_sysctls(r, status);
	build(r, status);
	usher_become(r, status);
	try(usher_close_all_but(status));
	program = usher_find_program(r);
	try(program ? 0 : -1);

	try(end_by_signals());
	send_byte(status, USHER_WAITS);
	usher_await_go(status);
	send_byte(status, USHER_GOES);
	execve(program, r->args, r->variables);
	say_why(program, errno);
	_exit(255);
}
