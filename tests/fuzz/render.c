/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The renderer. The fuzzer chooses columns that fit into a record, as Python does, and a batch of
 * any bytes. The text has no byte that a terminal would obey, and it is the same when there is room
 * for a part of it at a time.
 */
#include <errno.h>
#include <stdbool.h>
#include "fuzz_input.h"
#include "shim.h"

#define RECORD 64 /* bytes of the fixed part of a record */
#define MOST_COLUMNS 6
#define MOST_TEXT (16u << 20)

static const uint64_t keys[] = { 0, 1, 2, 3, 6, 9, 11, 0x80 };
/* Names of users, disks and the like are escaped. What has no need of it: names of flags and errors. */
static const char *const names[] = { "root", "\xff\n", "\033[2J", "", "six", "nine", "\"", "\\" };
static const char *const words[] = { "NONE", "ONE", "TWO", "THREE", "SIX", "KILL", "SEGV", "LAST" };
static const struct shim_table tables[] = {
	{ keys, names, sizeof(keys) / sizeof(*keys) },
	{ keys, words, sizeof(keys) / sizeof(*keys) },
};
static struct shim_frames frames;

static struct shim_column take_column(struct input *input)
{
	static const uint32_t sizes[] = { 1, 2, 4, 8 };
	struct shim_column column = { .name = "name", .kind = take_byte(input) % (SHIM_USER_STACK + 1) };

	column.size = sizes[take_byte(input) % 4];
	column.width = take_byte(input) % 24;
	if (column.kind == SHIM_CHARS)
		column.size = 1 + take_byte(input) % RECORD;
	else if (column.kind == SHIM_ADDRESS)
		column.size = 16;
	else if (column.kind >= SHIM_TEXT)
		column.size = 8;
	column.offset = take_byte(input) % (RECORD - column.size + 1);
	column.number = take_byte(input) % (RECORD - 8 + 1);
	column.table = column.kind != SHIM_NAME && column.kind != SHIM_OPTIONAL_NAME;
	if (column.kind == SHIM_SPAN)
		column.number = column.number % 2 ? 1000 : 1000000;
	return column;
}

/* Give whatever in the batch may be a frame a name; the first of them is not shown. */
static void name_frames(const char *batch, size_t size, uint32_t pid)
{
	static const char *const functions[] = { "bpf_prog_0123456789abcdef_read", "vfs_read", "\033[2J" };

	for (size_t at = 0; at + 8 <= size; at++) {
		uint64_t address;

		memcpy(&address, batch + at, sizeof(address));
		shim_frames_put(&frames, pid, address, functions[address % 3]);
	}
}

/*
 * Render all, with so much room at a time, and return how long the text is; *ret tells how it
 * ended. Columns of addresses become wider meanwhile, and frames become known.
 */
static size_t render_all(struct shim_plan plan, const char *batch, size_t size, char *piece,
			 size_t room, char *text, int *ret)
{
	struct shim_column columns[MOST_COLUMNS];
	struct shim_rendered done;
	size_t at = 0, length = 0;
	int answers = 0;

	memcpy(columns, plan.columns, plan.column_count * sizeof(*columns));
	plan.columns = columns;
	shim_frames_forget(&frames);
	for (;;) {
		*ret = shim_render(&plan, batch + at, size - at, piece, room, &done);
		CLAIM(done.produced <= room && done.consumed <= size - at);
		CLAIM(*ret || done.consumed == size - at);
		CLAIM(length + done.produced <= MOST_TEXT);
		memcpy(text + length, piece, done.produced);
		length += done.produced;
		at += done.consumed;
		if (*ret == -ENOKEY && done.table == UINT32_MAX && answers++ < 4)
			name_frames(batch, size, done.key);
		else if (*ret != -ENOSPC || !done.consumed)
			break;
	}
	return length;
}

static void claim_harmless(const char *text, size_t length)
{
	for (size_t i = 0; i < length; i++)
		CLAIM((unsigned char)text[i] >= 0x20 ? text[i] != 0x7f : text[i] == '\n');
	CLAIM(!length || text[length - 1] == '\n');
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static char large_piece[MOST_TEXT], at_once[MOST_TEXT], in_pieces[MOST_TEXT];
	struct input input = { data, size };
	struct shim_column columns[MOST_COLUMNS];
	struct shim_plan plan = { columns, tables, .record_size = RECORD };
	uint8_t form = take_byte(&input);
	size_t room = take_short(&input), length, other_length;
	int ended, other_ended;

	plan.as_json = form & 1;
	plan.ascii = form >> 1 & 1;
	plan.frames = form & 4 ? &frames : NULL;
	plan.column_count = 1 + take_byte(&input) % MOST_COLUMNS;
	for (uint32_t i = 0; i < plan.column_count; i++)
		columns[i] = take_column(&input);
	take(&input, &plan.start, sizeof(plan.start));
	take(&input, &plan.to_epoch, sizeof(plan.to_epoch));

	/* To the byte, so that the sanitizer sees each access beyond the end. */
	char *batch = malloc(input.left), *small_piece = malloc(room);

	CLAIM(batch && small_piece);
	size = input.left;
	take(&input, batch, size);
	length = render_all(plan, batch, size, large_piece, MOST_TEXT, at_once, &ended);
	claim_harmless(at_once, length);
	other_length = render_all(plan, batch, size, small_piece, room, in_pieces, &other_ended);
	CLAIM(other_length <= length && !memcmp(at_once, in_pieces, other_length));
	CLAIM(other_ended == -ENOSPC || (other_length == length && other_ended == ended));
	if (!shim_escape(batch, size, plan.ascii, small_piece, room))
		CLAIM(!size || room < 4 * size);
	free(batch);
	free(small_piece);
	return 0;
}
