/* SPDX-License-Identifier: BSD-2-Clause */
/* Names of kernel addresses, from /proc/kallsyms, read once when the first one is asked for. */
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "shim.h"

#define FAR (1u << 20) /* no function is as long: behind it is something without a name */

struct symbol {
	uint64_t address;
	uint32_t name; /* into text */
};

static char *text; /* all of kallsyms, the names ended by NUL */
static struct symbol *symbols;
static size_t symbol_count;
static pthread_once_t loaded = PTHREAD_ONCE_INIT;

static char *read_all(const char *path, size_t *ret)
{
	size_t room = 1 << 24, used = 0;
	char *buffer = malloc(room);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t got = 0;

	while (buffer && fd >= 0 && (got = read(fd, buffer + used, room - 1 - used)) > 0) {
		used += got;
		if (used == room - 1) {
			char *more = realloc(buffer, room *= 2);

			if (!more)
				break;
			buffer = more;
		}
	}
	if (fd >= 0)
		close(fd);
	*ret = used;
	if (buffer)
		buffer[used] = '\0';
	return buffer;
}

static int compare(const void *left, const void *right)
{
	uint64_t a = ((const struct symbol *)left)->address;
	uint64_t b = ((const struct symbol *)right)->address;

	return a < b ? -1 : a > b;
}

/* Lines are "address type name[ tab module]"; only code (t, T, w, W) is kept. */
static void load(void)
{
	size_t size, lines = 0;
	uint64_t previous = 0;
	int ascending = 1;

	text = read_all("/proc/kallsyms", &size);
	if (!text)
		return;
	for (char *at = text; (at = memchr(at, '\n', text + size - at)); at++)
		lines++;
	symbols = malloc((lines + 1) * sizeof(*symbols));
	if (!symbols)
		return;
	for (char *at = text; *at;) {
		char *line_end = strchr(at, '\n');
		char *space;
		uint64_t address = strtoull(at, &space, 16);

		if (!line_end)
			break;
		if (address && line_end - space > 3 && strchr("tTwW", space[1])) {
			char *name = space + 3;

			name[strcspn(name, "\t\n")] = '\0';
			ascending &= address >= previous;
			previous = address;
			symbols[symbol_count++] = (struct symbol){ address, name - text };
		}
		at = line_end + 1;
	}
	if (!ascending)
		qsort(symbols, symbol_count, sizeof(*symbols), compare);
}

size_t shim_symbol(uint64_t address, char *out, size_t out_size)
{
	size_t low = 0, high;
	int length;

	pthread_once(&loaded, load);
	high = symbol_count;
	while (low < high) {
		size_t middle = (low + high) / 2;

		if (symbols[middle].address <= address)
			low = middle + 1;
		else
			high = middle;
	}
	if (low && address - symbols[low - 1].address < FAR)
		length = snprintf(out, out_size, "%s+0x%" PRIx64, text + symbols[low - 1].name,
				  address - symbols[low - 1].address);
	else
		length = snprintf(out, out_size, "[unknown+0x%" PRIx64 "]", address);
	return (size_t)length < out_size ? (size_t)length : out_size - 1;
}
