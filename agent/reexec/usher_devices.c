/* What is in a container's /dev. */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "usher_parts.h"

/* is_as_wanted says whether a node is just what was made. */
static int is_as_wanted(const struct stat *st, const struct usher_device *d)
{
	return st->st_mode == d->mode && st->st_rdev == d->number;
}

/* own gives a node to its owner. */
static int own(int dir, const char *name, const struct usher_device *d)
{
	int fd = openat(dir, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0 || !is_as_wanted(&st, d))
		return -1;
	if (fchownat(fd, "", d->uid, d->gid, AT_EMPTY_PATH) < 0)
		return -1;
	return close(fd);
}

/* make_node makes a node, unless something has its name already. */
static int make_node(int dir, const char *name, const struct usher_device *d)
{
	struct stat st;

	if (mknodat(dir, name, d->mode, d->number) < 0)
		return errno == EEXIST ? 0 : -1;
	if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && is_as_wanted(&st, d) &&
	    ((st.st_uid == d->uid && st.st_gid == d->gid) || own(dir, name, d) == 0))
		return 0;
	/* As by the directory's ACL. Who comes next would take it for what it should be. */
	unlinkat(dir, name, 0);
	return -1;
}

static int make_link(int dir, const char *name, const char *to)
{
	return symlinkat(to, dir, name) < 0 && errno != EEXIST ? -1 : 0;
}

static void make_links(int dir, int status)
{
	try(unlinkat(dir, "ptmx", 0) < 0 && errno != ENOENT ? -1 : 0);
	try(symlinkat("pts/ptmx", dir, "ptmx"));
	try(make_link(dir, "fd", "/proc/self/fd"));
	try(make_link(dir, "stdin", "/proc/self/fd/0"));
	try(make_link(dir, "stdout", "/proc/self/fd/1"));
	try(make_link(dir, "stderr", "/proc/self/fd/2"));
	if (access("/proc/kcore", F_OK) == 0)
		try(make_link(dir, "core", "/proc/kcore"));
}

/* usher_make_devices makes the nodes, each in a directory that is looked up once for
 * all that follow in it, and the links of /dev. */
void usher_make_devices(const struct usher_parsed *r, int root, int status)
{
	mode_t before = umask(0);
	char *paths = r->device_paths;
	const char *directory = NULL;
	int dir = -1;
	uint32_t i;

	for (i = 0; i < r->build->devices; i++) {
		char *path = usher_next(&paths), *name = strrchr(path, '/');

		try(name ? 0 : -1);
		*name++ = 0;
		if (!directory || strcmp(directory, path)) {
			close(dir);
			umask(before);
			try(dir = usher_open_directory(root, *path ? path : "/"));
			umask(0);
			directory = path;
		}
		try(make_node(dir, name, &r->devices[i]));
	}
	close(dir);
	umask(before);
	try(dir = usher_open_directory(root, "/dev"));
	make_links(dir, status);
	close(dir);
}
