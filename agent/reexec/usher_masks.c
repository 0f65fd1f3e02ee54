/* Paths of a container that it may not write to, or not see. The root file system is the
 * root, and its links are the container's own. */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "usher_parts.h"

#define EMPTY_TYPE 0x01021994 /* tmpfs */

#ifndef AT_RECURSIVE
#define AT_RECURSIVE 0x8000
#endif

/* open_there opens a path, or says with 0 that there is none. */
static int open_there(const char *path)
{
	int fd = open(path, O_PATH | O_CLOEXEC);

	return fd < 0 && errno == ENOENT ? 0 : fd;
}

/* clone_tree is what is at a descriptor, to be mounted elsewhere. */
static int clone_tree(int fd, unsigned int flags)
{
	return open_tree(fd, "", AT_EMPTY_PATH | OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | flags);
}

static int mount_tree(int tree, int target)
{
	return move_mount(tree, "", target, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH);
}

/* usher_make_readonly mounts what is at the paths over itself, read-only. */
void usher_make_readonly(const struct usher_parsed *r, int status)
{
	struct mount_attr a = { .attr_set = MOUNT_ATTR_RDONLY, .attr_clr = MOUNT_ATTR_NOSYMFOLLOW };
	char *paths = r->readonly;
	uint32_t i;
	int fd, tree;

	for (i = 0; i < r->build->readonly; i++) {
		try(fd = open_there(usher_next(&paths)));
		if (!fd)
			continue;
		try(tree = clone_tree(fd, AT_RECURSIVE));
		try(mount_setattr(tree, "", AT_EMPTY_PATH, &a, sizeof(a)));
		try(mount_tree(tree, fd));
		close(tree);
		close(fd);
	}
}

static int open_null(void)
{
	int fd = open("/dev/null", O_PATH | O_CLOEXEC);
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0)
		return -1;
	if (!S_ISCHR(st.st_mode) || st.st_rdev != makedev(1, 3)) {
		errno = ENODEV;
		return -1;
	}
	return fd;
}

/* mount_empty mounts an empty file system on a directory, and opens it by its path. */
static int mount_empty(const char *path, int dir)
{
	struct statfs fs;
	int fd;

	if (fchdir(dir) < 0 || mount("tmpfs", ".", "tmpfs", MS_RDONLY, "nr_blocks=1,nr_inodes=1") < 0 || chdir("/") < 0)
		return -1;
	fd = open(path, O_PATH | O_CLOEXEC | O_DIRECTORY);
	if (fd < 0 || fstatfs(fd, &fs) < 0)
		return -1;
	return fs.f_type == EMPTY_TYPE && fs.f_files == 1 ? fd : -1;
}

/* mask_directory mounts an empty file system on a directory, the same one on all. */
static int mask_directory(const char *path, int dir, int *empty)
{
	int tree;

	if (*empty < 0)
		return *empty = mount_empty(path, dir);
	tree = clone_tree(*empty, 0);
	if (tree < 0 || mount_tree(tree, dir) < 0)
		return -1;
	return close(tree);
}

static int mask_file(int null, int fd)
{
	int tree = clone_tree(null, 0);

	if (tree < 0 || mount_tree(tree, fd) < 0)
		return -1;
	return close(tree);
}

/* usher_mask mounts nothing over the paths: a null device, or an empty directory. */
void usher_mask(const struct usher_parsed *r, int status)
{
	char *paths = r->masked;
	int null, fd, empty = -1;
	struct stat st;
	uint32_t i;

	if (!r->build->masked)
		return;
	try(null = open_null());
	for (i = 0; i < r->build->masked; i++) {
		const char *path = usher_next(&paths);

		try(fd = open_there(path));
		if (!fd)
			continue;
		try(fstat(fd, &st));
		try(S_ISDIR(st.st_mode) ? mask_directory(path, fd, &empty) : mask_file(null, fd));
		close(fd);
	}
	close(empty);
	close(null);
}
