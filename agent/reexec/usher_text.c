/* Text without stdio: of the C library as little as can be, for an emulator translates all of
 * it first. */

#define _GNU_SOURCE
#include <string.h>

#include "usher_parts.h"

/* usher_append puts text at the end of a string, and usher_append_number digits. Both return
 * where the string ends then; there must be room. */
char *usher_append(char *end, const char *text)
{
	return stpcpy(end, text);
}

char *usher_append_number(char *end, unsigned int n, unsigned int base)
{
	char digits[36], *d = digits + sizeof(digits);

	*--d = 0;
	do
		*--d = '0' + n % base;
	while (n /= base);
	return usher_append(end, d);
}
