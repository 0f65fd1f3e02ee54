/* The mounts of a container, in the order of its configuration. */

#define _GNU_SOURCE
#include <fcntl.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "usher_parts.h"

#ifndef AT_RECURSIVE
#define AT_RECURSIVE 0x8000
#endif
#ifndef MS_NOSYMFOLLOW
#define MS_NOSYMFOLLOW 256
#endif

/* What a mount is by its strings. */
struct mount_strings {
	const char *source, *target, *type, *data;
};

static struct mount_strings next_mount(char **strings)
{
	struct mount_strings s;

	s.source = usher_next(strings);
	s.target = usher_next(strings);
	s.type = usher_next(strings);
	s.data = usher_next(strings);
	return s;
}

/* attributes are what the flags of a bind give it, in the words of mount_setattr(2). As with
 * mount(2), how times of access are kept stays as it is unless a flag is about that. */
static struct mount_attr attributes(uint64_t flags)
{
	static const struct {
		uint64_t flag, attribute;
	} plain[] = {
		{ MS_RDONLY, MOUNT_ATTR_RDONLY }, { MS_NOSUID, MOUNT_ATTR_NOSUID },
		{ MS_NODEV, MOUNT_ATTR_NODEV }, { MS_NOEXEC, MOUNT_ATTR_NOEXEC },
		{ MS_NOSYMFOLLOW, MOUNT_ATTR_NOSYMFOLLOW },
	};
	struct mount_attr a = { 0 };
	size_t i;

	for (i = 0; i < sizeof(plain) / sizeof(*plain); i++) {
		a.attr_clr |= plain[i].attribute;
		if (flags & plain[i].flag)
			a.attr_set |= plain[i].attribute;
	}
	if (!(flags & (MS_NOATIME | MS_NODIRATIME | MS_RELATIME | MS_STRICTATIME)))
		return a;
	a.attr_clr |= MOUNT_ATTR__ATIME | MOUNT_ATTR_NODIRATIME;
	if (flags & MS_NODIRATIME)
		a.attr_set |= MOUNT_ATTR_NODIRATIME;
	if (flags & MS_STRICTATIME)
		a.attr_set |= MOUNT_ATTR_STRICTATIME;
	else if (flags & MS_NOATIME)
		a.attr_set |= MOUNT_ATTR_NOATIME;
	return a;
}

/* propagate sets the propagation of what is mounted. */
static int propagate(int mounted, uint32_t how)
{
	struct mount_attr a = { .propagation = how & ~MS_REC };

	return mount_setattr(mounted, "", AT_EMPTY_PATH | (how & MS_REC ? AT_RECURSIVE : 0), &a, sizeof(a));
}

static void mount_bind(const struct usher_mount *m, struct mount_strings s, const char *rootfs, int root, int status)
{
	int tree = open_tree(AT_FDCWD, s.source, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | (m->flags & MS_REC ? AT_RECURSIVE : 0));
	int target, made;
	struct stat st;

	try(tree);
	try(fstat(tree, &st));
	try(target = usher_open_target(root, rootfs, s.target, S_ISDIR(st.st_mode) ? 0 : USHER_MAKE_FILE, &made));
	if (m->how & USHER_MOUNT_ATTRIBUTES) {
		struct mount_attr a = attributes(m->flags);

		try(mount_setattr(tree, "", AT_EMPTY_PATH, &a, sizeof(a)));
	}
	try(move_mount(tree, "", target, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH));
	if (m->propagation)
		try(propagate(tree, m->propagation));
	close(target);
	close(tree);
}

/* with_mode puts the mode of a directory before a mount's data. */
static int with_mode(char *data, size_t size, int dir, const char *rest)
{
	struct stat st;

	if (fstat(dir, &st) < 0 || strlen(rest) + 32 > size)
		return -1;
	data = usher_append_number(usher_append(data, "mode="), st.st_mode & 07777, 8);
	if (*rest)
		usher_append(usher_append(data, ","), rest);
	return 0;
}

static void mount_new(const struct usher_mount *m, struct mount_strings s, const char *rootfs, int root, int status)
{
	char data[4096];
	int target, mounted, made;

	try(target = usher_open_target(root, rootfs, s.target, m->how & USHER_MOUNT_NO_LINKS ? USHER_NO_LINKS : 0, &made));
	if (m->how & USHER_MOUNT_MODE && !made) {
		try(with_mode(data, sizeof(data), target, s.data));
		s.data = data;
	}
	try(fchdir(target));
	try(mount(s.source, ".", s.type, m->flags, s.data));
	if (m->propagation) {
		try(mounted = usher_open_mounted(root, s.target, target));
		try(propagate(mounted, m->propagation));
		close(mounted);
	}
	close(target);
}

/* usher_mount_all makes the mounts in a root file system. */
void usher_mount_all(const struct usher_parsed *r, int root, int status)
{
	char *strings = r->mount_strings;
	uint32_t i;

	for (i = 0; i < r->build->mounts; i++) {
		struct mount_strings s = next_mount(&strings);

		if (r->mounts[i].how & USHER_MOUNT_BIND)
			mount_bind(&r->mounts[i], s, r->rootfs, root, status);
		else
			mount_new(&r->mounts[i], s, r->rootfs, root, status);
	}
}

/* usher_end_mounts makes those read-only in which something had to be made before. The
 * root file system is the root by now. */
void usher_end_mounts(const struct usher_parsed *r, int status)
{
	const uint64_t readonly = MS_REMOUNT | MS_BIND | MS_RDONLY;
	char *strings = r->mount_strings;
	uint32_t i;

	for (i = 0; i < r->build->mounts; i++) {
		struct mount_strings s = next_mount(&strings);

		if (r->mounts[i].how & USHER_MOUNT_READONLY)
			try(mount("", s.target, "", r->mounts[i].flags | readonly, ""));
	}
	if (r->build->flags & USHER_READONLY_ROOT)
		try(mount("", "/", "", readonly, ""));
}
