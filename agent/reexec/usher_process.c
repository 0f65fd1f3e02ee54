/* What a process becomes before it executes a container's program, as libcontainer would
 * have it. */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/close_range.h>
#include <linux/keyctl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "slack.h"
#include "usher_parts.h"

static char *variable(const struct usher_parsed *r, const char *name)
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

static int set_home(struct usher_parsed *r)
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

int usher_set_oom_score_adj(int score)
{
	char digits[16], *end = digits;
	int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);

	if (fd < 0)
		return -1;
	if (score < 0)
		end = usher_append(end, "-");
	end = usher_append_number(end, score < 0 ? -(unsigned int)score : (unsigned int)score, 10);
	if (write(fd, digits, end - digits) != end - digits)
		return -1;
	return close(fd);
}

/* usher_take_stdio makes the descriptors that came for it the standard ones. */
int usher_take_stdio(const int *fds)
{
	int i;

	for (i = 0; i < 3; i++)
		if (dup3(fds[USHER_STDIO + i], i, 0) < 0)
			return -1;
	return 0;
}

/* usher_close_all_but leaves the process its standard files and the stream. */
int usher_close_all_but(int status)
{
	if (status > 3 && close_range(3, status - 1, 0) < 0)
		return -1;
	return close_range(status + 1, ~0u, 0);
}

/* usher_join_session_keyring returns the keyring's number, 0 if there is none. */
long usher_join_session_keyring(const char *name)
{
	long id = *name ? syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, name) : 0;

	return id < 0 && errno == ENOSYS ? 0 : id; /* a kernel without keys */
}

/* use_all_cpus undoes what the usher may have inherited. The cgroup's are the limit. */
static void use_all_cpus(void)
{
	static unsigned char all[1024];

	memset(all, 0xff, sizeof(all));
	syscall(SYS_sched_setaffinity, 0, sizeof(all), all);
}

static int set_limits(const struct usher_parsed *r)
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
static int become_user(const struct usher_parsed *r)
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

/* usher_become makes the process as little as the request says. */
void usher_become(struct usher_parsed *r, int status)
{
	const struct usher_request *h = r->head;

	use_all_cpus();
	try(prctl(PR_SET_TIMERSLACK, USUAL_SLACK, 0, 0, 0));
	try(set_limits(r));
	if (h->flags & USHER_NO_NEW_PRIVILEGES)
		try(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	if (h->flags & USHER_HOME)
		try(set_home(r));
	try(become_user(r));
	try(is_inside() - 1);
	try(set_capabilities(h));
}

/* usher_find_program returns the path of what is to be executed, or NULL. */
const char *usher_find_program(const struct usher_parsed *r)
{
	static char path[4096];
	const char *dirs = variable(r, "PATH"), *name = r->args[0];
	size_t len = strlen(name);

	if (strchr(name, '/'))
		return is_program(name) ? name : NULL;
	while (dirs && *dirs && len) {
		size_t dir = strcspn(dirs, ":");

		if (*dirs != '/' || dir + len + 2 > sizeof(path))
			break; /* relative to wherever it is: not here */
		memcpy(path, dirs, dir);
		path[dir] = '/';
		memcpy(path + dir + 1, name, len + 1);
		if (is_program(path))
			return path;
		dirs += dir + (dirs[dir] == ':');
	}
	errno = ENOENT;
	return NULL;
}

/* usher_await_go waits until the agent lets this process execute its program. One that it
 * does not know must not: it would be nobody's, and libcontainer would do the same once
 * more. */
void usher_await_go(int status)
{
	char go;
	ssize_t n;

	do
		n = read(status, &go, 1);
	while (n < 0 && errno == EINTR);
	if (n != 1)
		_exit(255);
}
