/* A request is taken apart as the agent has put it together (usher.go), and refused if
 * anything of it is not in it. */

#include <string.h>

#include "usher_parts.h"

static char *strings[USHER_STRINGS + 3]; /* two ends, and a place for HOME */

/* fixed returns the n parts of a size at *at, and moves on. */
static void *fixed(char **at, const char *end, uint64_t n, size_t size)
{
	char *s = *at;

	if (!s || n > (uint64_t)(end - s) / size)
		return *at = NULL;
	*at = s + n * size;
	return s;
}

/* next_string returns the string at *at, and moves on to the next. */
static char *next_string(char **at, const char *end)
{
	char *s = *at, *zero = s ? memchr(s, 0, end - s) : NULL;

	*at = zero ? zero + 1 : NULL;
	return zero ? s : NULL;
}

/* list_strings fills list with n strings and an end. */
static void list_strings(char **list, size_t n, char **at, const char *end)
{
	size_t i;

	for (i = 0; i < n; i++)
		list[i] = next_string(at, end);
	list[n] = NULL;
}

/* skip_strings returns the first of n strings at *at, and moves on to what follows. */
static char *skip_strings(uint64_t n, char **at, const char *end)
{
	char *first = *at;

	while (*at && n--)
		next_string(at, end);
	return first;
}

/* usher_next returns the first of strings that are there, and moves on to the next. */
char *usher_next(char **strings)
{
	char *s = *strings;

	*strings = s + strlen(s) + 1;
	return s;
}

static void parse_container(struct usher_parsed *r, char **at, const char *end)
{
	const struct usher_build *b = r->build;

	r->rootfs = next_string(at, end);
	r->hostname = next_string(at, end);
	r->domainname = next_string(at, end);
	r->mount_strings = skip_strings(4ull * b->mounts, at, end);
	r->device_paths = skip_strings(b->devices, at, end);
	r->readonly = skip_strings(b->readonly, at, end);
	r->masked = skip_strings(b->masked, at, end);
	r->sysctls = skip_strings(2ull * b->sysctls, at, end);
}

int usher_parse(struct usher_parsed *r, char *message, size_t size)
{
	char *at = message, *end = message + size;
	struct usher_request *h;

	memset(r, 0, sizeof(*r));
	h = r->head = fixed(&at, end, 1, sizeof(*r->head));
	if (!h || h->args < 1 || (uint64_t)h->args + h->variables > USHER_STRINGS)
		return -1;
	if (h->flags & USHER_BUILD && !(r->build = fixed(&at, end, 1, sizeof(*r->build))))
		return -1;
	r->groups = fixed(&at, end, (h->groups + 1ull) / 2, 8);
	r->limits = fixed(&at, end, h->limits, sizeof(*r->limits));
	if (r->build) {
		r->mounts = fixed(&at, end, r->build->mounts, sizeof(*r->mounts));
		r->devices = fixed(&at, end, r->build->devices, sizeof(*r->devices));
	}
	r->directory = next_string(&at, end);
	r->keyring = next_string(&at, end);
	r->args = strings;
	list_strings(r->args, h->args, &at, end);
	r->variables = strings + h->args + 1;
	list_strings(r->variables, h->variables, &at, end);
	if (r->build)
		parse_container(r, &at, end);
	return at == end ? 0 : -1;
}
