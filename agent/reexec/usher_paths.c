/* Where something is to be mounted or made, as it is in a container's root file system.
 * Its links are followed in there and never out of it, and none that the kernel makes up.
 * Who owns an image or a volume must not come to say what of the guest is mounted over. */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "usher_parts.h"

#define SOME_PATH 4096

/* open_in opens a path in a root, without reading what is there. */
static int open_in(int root, const char *path, uint64_t flags, uint64_t resolve)
{
	struct open_how how = {
		.flags = O_PATH | O_CLOEXEC | flags,
		.resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS | resolve,
	};

	return syscall(SYS_openat2, root, path, &how, sizeof(how));
}

/* make_in makes a directory, or a file, and opens it. */
static int make_in(int dir, const char *name, int file)
{
	if (file)
		return openat(dir, name, O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
	if (mkdirat(dir, name, 0755) < 0)
		return -1;
	return openat(dir, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
}

/* make_missing opens a path of which not all is there: the rest is made, each part a
 * directory but for the last of a file's. */
static int make_missing(int root, const char *path, int file, uint64_t resolve)
{
	char part[SOME_PATH];
	size_t begin = 0, end;
	int at = -1, next, missing = 0;

	if (strlen(path) >= sizeof(part)) {
		errno = ENAMETOOLONG;
		return -1;
	}
	while (path[begin] == '/')
		begin++;
	for (; path[begin]; begin = end + (path[end] == '/')) {
		end = begin + strcspn(path + begin, "/");
		memcpy(part, path, end);
		part[end] = 0;
		next = missing ? -1 : open_in(root, part, 0, resolve);
		if (next < 0 && !missing && errno != ENOENT)
			break;
		missing = next < 0;
		if (missing)
			next = make_in(at < 0 ? root : at, part + begin, file && !path[end]);
		if (at >= 0)
			close(at);
		at = next;
		if (at < 0)
			return -1;
	}
	if (!path[begin])
		return at;
	if (at >= 0)
		close(at);
	return -1;
}

/* where writes down where what is open is. */
static int where(int fd, char *path)
{
	char link[32];
	ssize_t n;

	usher_append_number(usher_append(link, "/proc/self/fd/"), fd, 10);
	n = readlink(link, path, SOME_PATH);
	if (n < 0 || n >= SOME_PATH)
		return -1;
	path[n] = 0;
	return 0;
}

/* is_allowed says whether something may be mounted on what links have led to: neither the
 * root nor anything of /proc is to be covered by what is not meant for it. */
static int is_allowed(int fd, const char *rootfs)
{
	char path[SOME_PATH];
	size_t len = strlen(rootfs);

	if (where(fd, path) < 0)
		return 0;
	if (strncmp(path, rootfs, len) || path[len] != '/' || !path[len + 1])
		return 0;
	return strncmp(path + len, "/proc", 5) || (path[len + 5] && path[len + 5] != '/');
}

/* usher_open_target opens what something is to be mounted on, and makes it if it is not
 * there. The path is clean, and where it leads to without a link was looked at before. */
int usher_open_target(int root, const char *rootfs, const char *path, int how, int *made)
{
	uint64_t resolve = RESOLVE_NO_SYMLINKS;
	int fd = open_in(root, path, 0, resolve);

	if (fd < 0 && errno == ELOOP && !(how & USHER_NO_LINKS)) {
		resolve = 0;
		fd = open_in(root, path, 0, resolve);
	}
	*made = fd < 0 && errno == ENOENT;
	if (*made)
		fd = make_missing(root, path, how & USHER_MAKE_FILE, resolve);
	if (fd >= 0 && !resolve && !is_allowed(fd, rootfs)) {
		close(fd);
		errno = EXDEV;
		return -1;
	}
	return fd;
}

/* usher_open_directory opens a directory, and makes it if it is not there. */
int usher_open_directory(int root, const char *path)
{
	int fd = open_in(root, path, O_DIRECTORY, 0);

	if (fd < 0 && errno == ENOENT)
		return make_missing(root, path, 0, 0);
	return fd;
}

/* usher_open_mounted opens what is mounted on a target, which the path led to: if somebody
 * has changed a link on the way since, it does not. */
int usher_open_mounted(int root, const char *path, int target)
{
	char before[SOME_PATH], now[SOME_PATH];
	int fd = open_in(root, path, 0, 0);

	if (fd < 0)
		return -1;
	if (where(target, before) == 0 && where(fd, now) == 0 && !strcmp(before, now))
		return fd;
	close(fd);
	errno = EXDEV;
	return -1;
}
