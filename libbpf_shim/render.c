/* SPDX-License-Identifier: BSD-2-Clause */
/* From records to lines: a text table, or JSON lines. No string reaches out but by an escape. */
#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include "shim.h"
#include "unprintable.h" /* made by build.py: ranges of code points that no terminal should see */

struct text {
	char *at, *end;
	bool full;
};

struct part { /* struct ev_part of bpf_src/include/record.bpf.h */
	uint32_t at;
	uint16_t length, state;
};
enum { WHOLE, CUT, UNREADABLE, ABSENT };

static void put(struct text *out, const char *bytes, size_t length)
{
	if ((size_t)(out->end - out->at) < length) {
		out->full = true;
		return;
	}
	memcpy(out->at, bytes, length);
	out->at += length;
}

static void put_char(struct text *out, char c)
{
	if (out->at == out->end)
		out->full = true;
	else
		*out->at++ = c;
}

static void put_string(struct text *out, const char *string)
{
	put(out, string, strlen(string));
}

static void put_decimal(struct text *out, uint64_t value, int least_digits)
{
	char digits[24];
	int at = sizeof(digits);

	do {
		digits[--at] = '0' + value % 10;
		value /= 10;
	} while (value || (int)sizeof(digits) - at < least_digits);
	put(out, digits + at, sizeof(digits) - at);
}

static void put_signed(struct text *out, int64_t value)
{
	if (value < 0)
		put_char(out, '-');
	put_decimal(out, value < 0 ? -(uint64_t)value : (uint64_t)value, 1);
}

static void put_format(struct text *out, const char *format, uint64_t value)
{
	char buffer[32];

	put(out, buffer, snprintf(buffer, sizeof(buffer), format, value));
}

/* Length of the well-formed UTF-8 sequence at TEXT, 0 if there is none; *ret is its code point. */
static size_t decode(const unsigned char *text, size_t left, uint32_t *ret)
{
	static const uint32_t least[] = { 0, 0, 0x80, 0x800, 0x10000 };
	size_t length = text[0] < 0x80 ? 1 : text[0] < 0xc2 ? 0 : text[0] < 0xe0 ? 2 :
			text[0] < 0xf0 ? 3 : text[0] < 0xf5 ? 4 : 0;

	if (!length || length > left)
		return 0;
	*ret = length == 1 ? text[0] : text[0] & (0x7f >> length);
	for (size_t i = 1; i < length; i++) {
		if ((text[i] & 0xc0) != 0x80)
			return 0;
		*ret = *ret << 6 | (text[i] & 0x3f);
	}
	if (*ret < least[length] || *ret > 0x10ffff || (*ret >= 0xd800 && *ret < 0xe000))
		return 0;
	return length;
}

static bool is_printable(uint32_t point)
{
	size_t low = 0, high = sizeof(unprintable) / sizeof(*unprintable);

	while (low < high) {
		size_t middle = (low + high) / 2;

		if (point > unprintable[middle].last)
			low = middle + 1;
		else
			high = middle;
	}
	return low == sizeof(unprintable) / sizeof(*unprintable) || point < unprintable[low].first;
}

static void put_hex_byte(struct text *out, const char *prefix, unsigned char byte)
{
	put_string(out, prefix);
	put_char(out, "0123456789abcdef"[byte >> 4]);
	put_char(out, "0123456789abcdef"[byte & 15]);
}

/*
 * For a terminal: what is not printable becomes \n, \t, \r or \xNN, and a backslash is doubled, so
 * the bytes can be told again from what is shown.
 */
static void put_escaped(struct text *out, const char *text, size_t length, bool ascii)
{
	const unsigned char *at = (const unsigned char *)text, *end = at + length;

	while (at < end) {
		const unsigned char *plain = at;
		uint32_t point;
		size_t size;

		while (at < end && *at >= 0x20 && *at < 0x7f && *at != '\\')
			at++;
		put(out, (const char *)plain, at - plain);
		if (at == end)
			break;
		if (*at == '\\' || *at == '\n' || *at == '\t' || *at == '\r') {
			put_char(out, '\\');
			put_char(out, *at == '\n' ? 'n' : *at == '\t' ? 't' : *at == '\r' ? 'r' : '\\');
			at++;
			continue;
		}
		size = decode(at, end - at, &point);
		if (size > 1 && !ascii && is_printable(point)) {
			put(out, (const char *)at, size);
			at += size;
			continue;
		}
		for (size = size ? size : 1; size; size--)
			put_hex_byte(out, "\\x", *at++);
	}
}

size_t shim_escape(const char *text, size_t length, int ascii, char *out, size_t out_size)
{
	struct text to = { out, out + out_size, false };

	put_escaped(&to, text, length, ascii);
	return to.full ? 0 : to.at - out;
}

static bool is_utf8(const char *text, size_t length)
{
	const unsigned char *at = (const unsigned char *)text, *end = at + length;
	uint32_t point;

	while (at < end) {
		size_t size = *at < 0x80 ? 1 : decode(at, end - at, &point);

		if (!size)
			return false;
		at += size;
	}
	return true;
}

/* The code point as JSON escapes it: one or two UTF-16 units. */
static void put_json_escape(struct text *out, uint32_t point)
{
	char buffer[16];

	if (point < 0x10000)
		snprintf(buffer, sizeof(buffer), "\\u%04x", point);
	else
		snprintf(buffer, sizeof(buffer), "\\u%04x\\u%04x", 0xd7c0 + (point >> 10),
			 0xdc00 + (point & 0x3ff));
	put_string(out, buffer);
}

/*
 * The inside of a JSON string; a byte that is no UTF-8 becomes U+FFFD. JSON reaches terminals too,
 * and readers that take U+2028 for the end of a line: what is not printable is escaped.
 */
static void put_json(struct text *out, const char *text, size_t length)
{
	const unsigned char *at = (const unsigned char *)text, *end = at + length;

	while (at < end) {
		const unsigned char *plain = at;
		uint32_t point;
		size_t size;

		while (at < end && *at >= 0x20 && *at < 0x7f && *at != '\\' && *at != '"')
			at++;
		put(out, (const char *)plain, at - plain);
		if (at == end)
			break;
		size = decode(at, end - at, &point);
		if (!size) {
			put_string(out, "\xef\xbf\xbd");
			size = 1;
		} else if (*at == '"' || *at == '\\') {
			put_char(out, '\\');
			put_char(out, *at);
		} else if (size > 1 && is_printable(point)) {
			put(out, (const char *)at, size);
		} else {
			put_json_escape(out, point);
		}
		at += size;
	}
}

static void put_base64(struct text *out, const char *bytes, size_t length)
{
	static const char digits[] =
		"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

	for (size_t i = 0; i < length; i += 3) {
		size_t left = length - i;
		uint32_t three = (unsigned char)bytes[i] << 16 |
				 (left > 1 ? (unsigned char)bytes[i + 1] << 8 : 0) |
				 (left > 2 ? (unsigned char)bytes[i + 2] : 0);

		put_char(out, digits[three >> 18]);
		put_char(out, digits[three >> 12 & 63]);
		put_char(out, left > 1 ? digits[three >> 6 & 63] : '=');
		put_char(out, left > 2 ? digits[three & 63] : '=');
	}
}

static void put_key(struct text *out, const char *name, const char *suffix)
{
	put_string(out, ",\"");
	put_string(out, name);
	put_string(out, suffix);
	put_string(out, "\":");
}

/* "name":"text", and "name_b64" beside it when the text alone would lose bytes. */
static void put_json_text(struct text *out, const char *name, const char *text, size_t length)
{
	put_char(out, '"');
	put_json(out, text, length);
	put_char(out, '"');
	if (!is_utf8(text, length)) {
		put_key(out, name, "_b64");
		put_char(out, '"');
		put_base64(out, text, length);
		put_char(out, '"');
	}
}

/* Where KEY stands in TABLE, or its count. */
static uint32_t find_key(const struct shim_table *table, uint64_t key)
{
	uint32_t low = 0, high = table->count;

	while (low < high) {
		uint32_t middle = (low + high) / 2;

		if (table->keys[middle] < key)
			low = middle + 1;
		else
			high = middle;
	}
	return low < table->count && table->keys[low] == key ? low : table->count;
}

static const char *text_of(const struct shim_table *table, uint64_t key)
{
	uint32_t at = find_key(table, key);

	return at < table->count ? table->texts[at] : NULL;
}

struct record {
	const struct shim_plan *plan;
	const char *bytes;
	size_t size;
};

static uint64_t number_at(const struct record *record, const struct shim_column *column)
{
	const char *at = record->bytes + column->offset;
	uint64_t value = 0;

	memcpy(&value, at, column->size <= 8 ? column->size : 8);
	return value;
}

static int64_t signed_at(const struct record *record, const struct shim_column *column)
{
	int shift = column->size < 8 ? 64 - 8 * column->size : 0;

	return (int64_t)(number_at(record, column) << shift) >> shift;
}

/* The bytes of the part described at OFFSET; a part that leaves the record is unreadable. */
static struct part part_at(const struct record *record, uint32_t offset, const char **ret)
{
	struct part part;

	memcpy(&part, record->bytes + offset, sizeof(part));
	*ret = record->bytes + record->plan->record_size + part.at;
	if (part.at > record->size - record->plan->record_size ||
	    part.length > record->size - record->plan->record_size - part.at) {
		part.length = 0;
		part.state = UNREADABLE;
	}
	return part;
}

/* Without the bytes of a sequence that the cut has split. */
static size_t whole_length(const char *text, const struct part *part)
{
	size_t length = part->length;
	uint32_t point;

	if (part->state != CUT)
		return length;
	for (size_t back = 1; back <= 3 && back <= length; back++) {
		unsigned char byte = text[length - back];

		if (byte >= 0xc0)
			return decode((const unsigned char *)text + length - back, back, &point) ?
				       length : length - back;
		if (byte < 0x80)
			break;
	}
	return length;
}

/* Join the directory's names, the uppermost first, and the path into BUFFER. */
static size_t join_path(const struct record *record, const struct shim_column *column,
			const char *path, size_t path_length, char *buffer, size_t size, bool *cut)
{
	const char *names;
	struct part dir = part_at(record, column->number, &names);
	size_t used = 0, end = dir.length;

	*cut = dir.state == CUT;
	if (dir.state == UNREADABLE)
		used = snprintf(buffer, size, "?/");
	if (*cut)
		used = snprintf(buffer, size, "...");
	while (end) {
		size_t begin = end - 1;

		while (begin && names[begin - 1])
			begin--;
		if (used + (end - begin) + path_length + 2 > size)
			break;
		buffer[used++] = '/';
		memcpy(buffer + used, names + begin, end - 1 - begin);
		used += end - 1 - begin;
		end = begin;
	}
	if (dir.state != UNREADABLE && path_length)
		buffer[used++] = '/';
	if (used + path_length > size)
		path_length = size - used;
	memcpy(buffer + used, path, path_length);
	return used + path_length;
}

static void put_local_time(struct text *out, const struct record *record, uint64_t time, bool full)
{
	static _Thread_local time_t known_second = -1;
	static _Thread_local struct tm known;
	int64_t epoch = (int64_t)time + record->plan->to_epoch;
	time_t second = epoch / 1000000000;
	char buffer[32];

	if (second != known_second) {
		localtime_r(&second, &known);
		known_second = second;
	}
	put(out, buffer, strftime(buffer, sizeof(buffer), full ? "%F %T" : "%T", &known));
	if (full) {
		put_char(out, '.');
		put_decimal(out, epoch / 1000000 % 1000, 3);
	}
}

static void put_fraction(struct text *out, uint64_t value, uint64_t unit, int digits)
{
	uint64_t scale = 1;

	for (int i = 0; i < digits; i++)
		scale *= 10;
	put_decimal(out, value / unit, 1);
	put_char(out, '.');
	put_decimal(out, value % unit * scale / unit, digits);
}

/* To the unit, small ones to a tenth. */
static void put_ratio(struct text *out, double ratio)
{
	char buffer[64];

	put(out, buffer, snprintf(buffer, sizeof(buffer), ratio && ratio < 10 ? "%.1f" : "%.0f", ratio));
}

static void put_bar(struct text *out, double length, double most)
{
	for (; length >= 1 && most >= 1; length--, most--)
		put_char(out, '*');
}

static void put_flags(struct text *out, const struct shim_table *table, uint64_t value)
{
	bool any = false;

	for (uint32_t i = 0; i < table->count; i++) {
		if (!table->keys[i] || (value & table->keys[i]) != table->keys[i])
			continue;
		if (any)
			put_char(out, '|');
		put_string(out, table->texts[i]);
		any = true;
		value &= ~table->keys[i];
	}
	if (value)
		put_format(out, any ? "|0x%" PRIx64 : "0x%" PRIx64, value);
	else if (!any)
		put_string(out, table->count && !table->keys[0] ? table->texts[0] : "0");
}

static void put_quoted(struct text *out, const char *text, size_t length, bool ascii)
{
	const char *quote;

	put_char(out, '"');
	while ((quote = memchr(text, '"', length))) {
		put_escaped(out, text, quote - text, ascii);
		put_string(out, "\\\"");
		length -= quote + 1 - text;
		text = quote + 1;
	}
	put_escaped(out, text, length, ascii);
	put_char(out, '"');
}

/* A list of texts, each ended by NUL: separated by blanks, or a JSON array. */
static void put_args(struct text *out, const struct shim_column *column, const char *args,
		     const struct part *part, const struct record *record)
{
	const char *end = args + whole_length(args, part);
	const char *begin = args;
	bool json = record->plan->as_json, whole = true;

	if (json)
		put_char(out, '[');
	while (args < end) {
		size_t length = strnlen(args, end - args);

		if (args != begin)
			put_char(out, json ? ',' : ' ');
		if (json) {
			put_char(out, '"');
			put_json(out, args, length);
			put_char(out, '"');
			whole = whole && is_utf8(args, length);
		} else if (column->number && (memchr(args, ' ', length) ||
					      memchr(args, '"', length) || !length)) {
			put_quoted(out, args, length, record->plan->ascii);
		} else {
			put_escaped(out, args, length, record->plan->ascii);
		}
		args += length + 1;
	}
	if (!json)
		return;
	put_char(out, ']');
	if (!whole) {
		put_key(out, column->name, "_b64");
		put_char(out, '"');
		put_base64(out, begin, part->length);
		put_char(out, '"');
	}
}

static uint32_t slot_of(const struct shim_frames *frames, uint32_t pid, uint64_t address)
{
	const uint32_t mask = sizeof(frames->slots) / sizeof(*frames->slots) - 1;
	uint32_t at = ((address ^ (uint64_t)pid << 32) * 0x9e3779b97f4a7c15) >> 40;

	for (at &= mask; frames->slots[at].pid; at = (at + 1) & mask)
		if (frames->slots[at].pid == pid && frames->slots[at].address == address)
			break;
	return at;
}

void shim_frames_forget(struct shim_frames *frames)
{
	if (frames->count)
		memset(frames->slots, 0, sizeof(frames->slots));
	frames->count = frames->used = 0;
}

void shim_frames_put(struct shim_frames *frames, uint32_t pid, uint64_t address, const char *name)
{
	size_t size = strlen(name) + 1;
	uint32_t at;

	if (frames->count > sizeof(frames->slots) / sizeof(*frames->slots) / 2 ||
	    frames->used + size > sizeof(frames->names))
		shim_frames_forget(frames);
	at = slot_of(frames, pid, address);
	if (frames->slots[at].pid || !pid || size > sizeof(frames->names))
		return;
	frames->slots[at].pid = pid;
	frames->slots[at].address = address;
	frames->slots[at].name = frames->used;
	frames->count++;
	memcpy(frames->names + frames->used, name, size);
	frames->used += size;
}

/* Returns 0 or -ENOKEY. */
static int put_stack(struct text *out, const struct shim_column *column, const char *bytes,
		     const struct part *part, const struct record *record, struct shim_rendered *ret)
{
	const struct shim_frames *frames = record->plan->frames;
	bool json = record->plan->as_json;
	uint32_t pid = UINT32_MAX;

	if (column->kind == SHIM_USER_STACK)
		memcpy(&pid, record->bytes + column->number, sizeof(pid));
	if (json)
		put_char(out, '[');
	for (size_t i = 0; i + 8 <= part->length; i += 8) {
		char unknown[32];
		const char *name = unknown;
		uint64_t address;

		memcpy(&address, bytes + i, 8);
		if (frames && pid) {
			uint32_t at = slot_of(frames, pid, address);

			if (!frames->slots[at].pid) {
				ret->table = UINT32_MAX;
				ret->key = pid;
				return -ENOKEY;
			}
			name = frames->names + frames->slots[at].name;
		} else {
			snprintf(unknown, sizeof(unknown), "[unknown+0x%" PRIx64 "]", address);
		}
		put_string(out, !json ? "\n    " : i ? ",\"" : "\"");
		if (json)
			put_json(out, name, strlen(name));
		else
			put_escaped(out, name, strlen(name), record->plan->ascii);
		if (json)
			put_char(out, '"');
	}
	if (json)
		put_char(out, ']');
	else if (part->state == UNREADABLE)
		put_string(out, "\n    [no frames]");
	return 0;
}

static void put_part(struct text *out, const struct record *record,
		     const struct shim_column *column)
{
	const char *bytes;
	struct part part = part_at(record, column->offset, &bytes);
	bool json = record->plan->as_json, cut = part.state == CUT;
	char joined[3 * 4096];
	size_t length = whole_length(bytes, &part);

	if (part.state == UNREADABLE || part.state == ABSENT) {
		put_string(out, json ? "null" : part.state == ABSENT ? "-" : "?");
		return;
	}
	if (column->kind == SHIM_ARGS) {
		put_args(out, column, bytes, &part, record);
	} else {
		if (column->kind == SHIM_PATH && !(length && bytes[0] == '/')) {
			struct part dir;
			const char *names;

			dir = part_at(record, column->number, &names);
			if (dir.length || dir.state) {
				bool dir_cut;

				length = join_path(record, column, bytes, length, joined,
						   sizeof(joined), &dir_cut);
				cut |= dir_cut;
				bytes = joined;
			}
		}
		if (json)
			put_json_text(out, column->name, bytes, length);
		else
			put_escaped(out, bytes, length, record->plan->ascii);
	}
	if (cut && json) {
		put_key(out, column->name, "_truncated");
		put_string(out, "true");
	} else if (cut) {
		/* Between two arguments, or in the middle of a text. */
		put_string(out, column->kind == SHIM_ARGS && length && !bytes[length - 1] ? " ..." :
											    "...");
	}
}

static void put_address(struct text *out, const char *bytes)
{
	struct in6_addr address;
	char shown[INET6_ADDRSTRLEN];

	memcpy(&address, bytes, sizeof(address));
	if (IN6_IS_ADDR_V4MAPPED(&address))
		inet_ntop(AF_INET, address.s6_addr + 12, shown, sizeof(shown));
	else
		inet_ntop(AF_INET6, &address, shown, sizeof(shown));
	put_string(out, shown);
}

/* Returns 0 or -ENOKEY. */
static int put_value(struct text *out, const struct record *record,
		     const struct shim_column *column, struct shim_rendered *ret)
{
	const struct shim_plan *plan = record->plan;
	const struct shim_table *table = plan->tables + column->table;
	const char *name;
	int64_t value;

	switch (column->kind) {
	case SHIM_UNSIGNED:
		put_decimal(out, number_at(record, column), 1);
		break;
	case SHIM_SIGNED:
		put_signed(out, signed_at(record, column));
		break;
	case SHIM_HEX:
		put_format(out, "0x%" PRIx64, number_at(record, column));
		break;
	case SHIM_OCTAL:
		put_format(out, "%04" PRIo64, number_at(record, column));
		break;
	case SHIM_RESULT:
		value = signed_at(record, column);
		if (value == INT64_MAX)
			put_string(out, plan->as_json ? "null" : "-");
		else
			put_signed(out, value < 0 && !plan->as_json ? -1 : value);
		break;
	case SHIM_ERRNO:
		value = signed_at(record, column);
		name = value < 0 ? text_of(table, -value) : "0";
		if (name)
			put_string(out, name);
		else
			put_signed(out, -value);
		break;
	case SHIM_NAME:
		name = text_of(table, number_at(record, column));
		if (!name) {
			ret->table = column->table;
			ret->key = number_at(record, column);
			return -ENOKEY;
		}
		if (plan->as_json)
			put_json_text(out, column->name, name, strlen(name));
		else
			put_escaped(out, name, strlen(name), plan->ascii);
		break;
	case SHIM_FLAGS:
		put_flags(out, table, number_at(record, column));
		break;
	case SHIM_EXIT:
		value = signed_at(record, column);
		name = value > 0 && (value & 0x7f) ? text_of(table, value & 0x7f) : NULL;
		if (value < 0)
			put_string(out, plan->as_json ? "null" : "-");
		else if (plan->as_json)
			put_decimal(out, value, 1);
		else if (name)
			put_string(out, name);
		else
			put_decimal(out, value & 0x7f ? (value & 0x7f) + 128 : value >> 8, 1);
		break;
	case SHIM_SECONDS:
		value = number_at(record, column) - plan->start;
		put_fraction(out, value < 0 ? 0 : value, 1000000000, 6);
		break;
	case SHIM_CLOCK:
		put_local_time(out, record, number_at(record, column), column->number);
		break;
	case SHIM_EPOCH:
		put_signed(out, (int64_t)number_at(record, column) + plan->to_epoch);
		break;
	case SHIM_SPAN:
		if (number_at(record, column) == UINT64_MAX)
			put_string(out, plan->as_json ? "null" : "-");
		else if (plan->as_json)
			put_decimal(out, number_at(record, column), 1);
		else
			put_fraction(out, number_at(record, column), column->number, 3);
		break;
	case SHIM_RATE:
	case SHIM_SHARE:
	case SHIM_BAR: {
		double number = number_at(record, column);
		uint64_t whole;

		memcpy(&whole, record->bytes + column->number, sizeof(whole));
		whole = whole ? whole : 1;
		if (column->kind == SHIM_BAR)
			put_bar(out, number * column->width / whole, column->width);
		else
			put_ratio(out, number * (column->kind == SHIM_RATE ? 1e9 : 100) / whole);
		break;
	}
	case SHIM_ADDRESS:
		put_string(out, plan->as_json ? "\"" : "");
		put_address(out, record->bytes + column->offset);
		put_string(out, plan->as_json ? "\"" : "");
		break;
	case SHIM_CHARS: {
		const char *chars = record->bytes + column->offset;
		size_t length = strnlen(chars, column->size);

		if (plan->as_json)
			put_json_text(out, column->name, chars, length);
		else
			put_escaped(out, chars, length, plan->ascii);
		break;
	}
	case SHIM_STACK:
	case SHIM_USER_STACK: {
		const char *frames;
		struct part part = part_at(record, column->offset, &frames);

		return put_stack(out, column, frames, &part, record, ret);
	}
	default:
		put_part(out, record, column);
	}
	return 0;
}

/* Shown characters, not bytes, fill a column. */
static uint32_t shown_width(const char *from, const char *to)
{
	uint32_t width = 0;

	for (; from < to; from++)
		width += ((unsigned char)*from & 0xc0) != 0x80;
	return width;
}

static int put_record(struct text *out, const struct record *record, struct shim_rendered *ret)
{
	const struct shim_plan *plan = record->plan;

	for (uint32_t i = 0; i < plan->column_count; i++) {
		struct shim_column *column = plan->columns + i;
		const char *begin = out->at;
		uint32_t width;
		int error;

		if (plan->as_json) {
			put_string(out, i ? ",\"" : "{\"");
			put_string(out, column->name);
			put_string(out, "\":");
		}
		error = put_value(out, record, column, ret);
		if (error)
			return error;
		if (plan->as_json || i + 1 == plan->column_count ||
		    plan->columns[i + 1].kind >= SHIM_STACK)
			continue;
		width = shown_width(begin, out->at);
		/* Addresses come in two lengths: once the long one was seen, leave room for it. */
		if (column->kind == SHIM_ADDRESS && width > column->width)
			column->width = width;
		for (; width < column->width; width++)
			put_char(out, ' ');
		put_char(out, ' ');
	}
	put_string(out, plan->as_json ? "}\n" : "\n");
	return 0;
}

int shim_render(const struct shim_plan *plan, const void *batch, size_t size, char *out,
		size_t out_size, struct shim_rendered *ret)
{
	struct text to = { out, out + out_size, false };
	const char *bytes = batch;

	memset(ret, 0, sizeof(*ret));
	while (ret->consumed < size) {
		uint64_t length;
		char *begin = to.at;
		int error;

		if (size - ret->consumed < sizeof(length))
			return -EBADMSG;
		memcpy(&length, bytes + ret->consumed, sizeof(length));
		if (length > size - ret->consumed - sizeof(length))
			return -EBADMSG;

		struct record record = { plan, bytes + ret->consumed + sizeof(length), length };

		if (length < plan->record_size) {
			ret->bad++;
		} else {
			error = put_record(&to, &record, ret);
			if (error || to.full) {
				to.at = begin;
				ret->produced = begin - out;
				return error ? error : -ENOSPC;
			}
			ret->records++;
		}
		ret->consumed += sizeof(length) + (length + 7) / 8 * 8;
		if (ret->consumed > size)
			ret->consumed = size;
		ret->produced = to.at - out;
	}
	return 0;
}
