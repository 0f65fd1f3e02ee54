/* What the parts of the usher know of each other. */

#include <stddef.h>
#include <sys/types.h>

#include "usher.h"

/* A request, taken apart. What it points to is in the message. */
struct usher_parsed {
	struct usher_request *head;
	gid_t *groups;
	struct usher_limit *limits;
	char *directory, *keyring, **args, **variables;

	/* Of a container, else NULL. The last five are as many strings as they should be. */
	struct usher_build *build;
	struct usher_mount *mounts;
	struct usher_device *devices;
	char *rootfs, *hostname, *domainname;
	char *mount_strings, *device_paths, *readonly, *masked, *sysctls;
};

/* usher_request.c */
int usher_parse(struct usher_parsed *r, char *message, size_t size);
char *usher_next(char **strings);

/* try ends the process if what it tries fails. The stream to tell of it is status. */
#define try(what) \
	do { \
		if ((what) < 0) \
			usher_fail(status, __FILE__, __LINE__); \
	} while (0)

void __attribute__((noreturn)) usher_fail(int status, const char *file, int line);

/* usher_enter.c, usher_init.c: the lives of the two kinds of processes. */
void __attribute__((noreturn)) usher_enter(struct usher_parsed *r, const int *fds, int home);
void __attribute__((noreturn)) usher_init(struct usher_parsed *r, const int *fds, int home);

/* usher_process.c: what both become. */
int usher_set_oom_score_adj(int score);
int usher_take_stdio(const int *fds);
int usher_close_all_but(int status);
long usher_join_session_keyring(const char *name);
void usher_become(struct usher_parsed *r, int status);
const char *usher_find_program(const struct usher_parsed *r);
void usher_await_go(int status);

/* usher_text.c */
char *usher_append(char *end, const char *text);
char *usher_append_number(char *end, unsigned int n, unsigned int base);

/* usher_paths.c: of what is in a root file system. */
#define USHER_MAKE_FILE 1 /* what is missing is a file, not a directory */
#define USHER_NO_LINKS 2  /* no link may be on the way */

int usher_open_target(int root, const char *rootfs, const char *path, int how, int *made);
int usher_open_directory(int root, const char *path);
int usher_open_mounted(int root, const char *path, int target);

/* usher_mounts.c, usher_devices.c, usher_masks.c: what is made in a container. */
void usher_mount_all(const struct usher_parsed *r, int root, int status);
void usher_end_mounts(const struct usher_parsed *r, int status);
void usher_make_devices(const struct usher_parsed *r, int root, int status);
void usher_make_readonly(const struct usher_parsed *r, int status);
void usher_mask(const struct usher_parsed *r, int status);
