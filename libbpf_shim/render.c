/* SPDX-License-Identifier: BSD-2-Clause */
/* From records to lines: a text table, or JSON lines. No string reaches out but by an escape. */
#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "shim.h"
#include "printable.h" /* made by build.py: a bit for each code point that a terminal may see */

struct text {
	char *at, *end;
	bool full;
	size_t continuing; /* bytes that belong to the character before them */
};

struct part { /* struct ev_part of bpf_src/include/record.bpf.h */
	uint32_t at;
	uint16_t length, state;
};
enum { WHOLE, CUT, UNREADABLE, ABSENT, ADDRESS };

#define KERNEL UINT32_MAX /* instead of a process: whose frames are the kernel's */

/* How a string is written: for a terminal, of ASCII alone, between quotes, in JSON. */
enum { ASCII = 1, QUOTED = 2, JSON = 4 | QUOTED };

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

static void put_blanks(struct text *out, size_t count)
{
	static const char blanks[] = "                "; /* 16, which take one instruction */

	if (count <= 16 && out->end - out->at >= 16) {
		memcpy(out->at, blanks, 16);
		out->at += count;
		return;
	}
	if ((size_t)(out->end - out->at) < count) {
		out->full = true;
		return;
	}
	memset(out->at, ' ', count);
	out->at += count;
}

static void put_if(bool wanted, struct text *out, char c)
{
	if (wanted)
		put_char(out, c);
}

static void put_string(struct text *out, const char *string)
{
	put(out, string, strlen(string));
}

/* Two digits at a time, where they shall stand: to copy what was just stored in parts is slow. */
static void put_decimal(struct text *out, uint64_t value, int least_digits)
{
	static const char pairs[] =
		"0001020304050607080910111213141516171819202122232425262728293031323334353637383940"
		"4142434445464748495051525354555657585960616263646566676869707172737475767778798081"
		"828384858687888990919293949596979899";
	int count = 1;

	for (uint64_t limit = 10; value >= limit && count < 20; limit *= 10)
		count++;
	if (count < least_digits)
		count = least_digits;
	if (out->end - out->at < count) {
		out->full = true;
		return;
	}
	char *at = out->at + count;

	for (; at - out->at >= 2; value /= 100) {
		at -= 2;
		memcpy(at, pairs + value % 100 * 2, 2);
	}
	if (at > out->at)
		*out->at = '0' + value % 10;
	out->at += count;
}

static void put_signed(struct text *out, int64_t value)
{
	put_if(value < 0, out, '-');
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

/*
 * A string of another process. What is not printable becomes \n, \t, \r or \xNN, and a backslash
 * is doubled, so the bytes can be told again from what is shown. In JSON, which reaches terminals
 * too, and readers that take U+2028 for the end of a line, it becomes \uNNNN, and a byte that is no
 * UTF-8 U+FFFD. Returns whether all was UTF-8.
 */
static bool put_text(struct text *out, const char *text, size_t length, uint32_t style)
{
	/* Characters that are the same in every style. */
	static const bool plain[256] = {
		[' ' ... '!'] = true, ['#' ... '['] = true, [']' ... '~'] = true,
	};
	const unsigned char *at = (const unsigned char *)text, *end = at + length;
	const char *named;
	bool whole = true;
	size_t size;

	for (; at < end; at += size ? size : 1) {
		const unsigned char *begin = at;
		uint32_t point;

		while (at < end && plain[*at])
			at++;
		put(out, (const char *)begin, at - begin);
		if (at == end)
			break;
		size = decode(at, end - at, &point);
		whole = whole && size;
		if (*at == '\\' || *at == '"') {
			put_if(*at == '\\' || style & QUOTED, out, '\\');
			put_char(out, *at);
		} else if (size > 1 && !(style & ASCII) && printable[point / 64] >> point % 64 & 1) {
			put(out, (const char *)at, size);
			out->continuing += size - 1;
		} else if (style & JSON & ~QUOTED) {
			if (!size)
				put_string(out, "\xef\xbf\xbd");
			else if (point >= 0x10000) /* two units of UTF-16 */
				put_format(out, "\\u%04" PRIx64, 0xd7c0 + (point >> 10));
			if (size)
				put_format(out, "\\u%04" PRIx64,
					   point < 0x10000 ? point : 0xdc00 + (point & 0x3ff));
		} else if ((named = memchr("\tt\nn\rr", *at, 6))) {
			put_char(out, '\\');
			put_char(out, named[1]);
		} else {
			for (size_t i = 0; i < (size ? size : 1); i++)
				put_format(out, "\\x%02" PRIx64, at[i]);
		}
	}
	return whole;
}

size_t shim_escape(const char *text, size_t length, int ascii, char *out, size_t out_size)
{
	struct text to = { .at = out, .end = out + out_size };

	put_text(&to, text, length, ascii ? ASCII : 0);
	return to.full ? 0 : to.at - out;
}

static void put_key(struct text *out, const char *before, const char *name, const char *suffix)
{
	put_string(out, before);
	put_string(out, name);
	put_string(out, suffix);
	put_string(out, "\":");
}

/* Bytes that their text in JSON has lost, beside it. */
static void put_base64(struct text *out, const char *name, const char *bytes, size_t length)
{
	static const char digits[] =
		"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

	put_key(out, ",\"", name, "_b64");
	put_char(out, '"');
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
	put_char(out, '"');
}

static int compare_keys(const void *left, const void *right)
{
	uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;

	return (a > b) - (a < b);
}

static const char *text_of(const struct shim_table *table, uint64_t key)
{
	const uint64_t *at = bsearch(&key, table->keys, table->count, sizeof(key), compare_keys);

	return at ? table->texts[at - table->keys] : NULL;
}

struct record {
	const struct shim_plan *plan;
	const char *bytes;
	size_t size;
	uint32_t style;
};

static void put_field(struct text *out, const struct record *record,
		      const struct shim_column *column, const char *text, size_t length)
{
	bool json = record->plan->as_json, whole;

	put_if(json, out, '"');
	whole = put_text(out, text, length, record->style);
	put_if(json, out, '"');
	if (json && !whole)
		put_base64(out, column->name, text, length);
}

static void put_nothing(struct text *out, const struct record *record)
{
	put_string(out, record->plan->as_json ? "null" : "-");
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
	const unsigned char *end = (const unsigned char *)text + part->length;
	uint32_t point;

	for (int back = 1; part->state == CUT && back <= 3 && back <= part->length; back++)
		if ((end[-back] & 0xc0) != 0x80)
			return part->length - (decode(end - back, back, &point) ? 0 : back);
	return part->length;
}

/* Put the directory's names, the last one of which is the uppermost, before the path in BUFFER. */
static size_t join_path(const struct part *dir, const char *names, const char *path,
			size_t path_length, char *buffer, size_t size)
{
	const char *before = dir->state == UNREADABLE ? "?/" : dir->state == CUT ? "..." : "";
	char *end = buffer + size, *at;
	size_t length;

	if (path_length > size / 2)
		path_length = size / 2;
	at = memcpy(end - path_length, path, path_length);
	/* A directory without names is the root, which is "/" itself. */
	if ((path_length || !dir->length) && dir->state != UNREADABLE)
		*--at = '/';
	for (size_t i = 0; i < dir->length; i += length + 1) {
		length = strnlen(names + i, dir->length - i);
		if ((size_t)(at - buffer) < length + 4)
			break;
		at = memcpy(at - length, names + i, length);
		*--at = '/';
	}
	at = memcpy(at - strlen(before), before, strlen(before));
	memmove(buffer, at, end - at);
	return end - at;
}

/* Nanoseconds since 1970. A record may hold any time: what is too large begins again below. */
static int64_t to_epoch(const struct record *record, uint64_t time)
{
	return time + (uint64_t)record->plan->to_epoch;
}

static void put_local_time(struct text *out, const struct record *record, uint64_t time, bool full)
{
	static _Thread_local time_t known_second = -1;
	static _Thread_local struct tm known;
	const int64_t epoch = to_epoch(record, time);
	const int64_t since_second = (epoch % 1000000000 + 1000000000) % 1000000000;
	const time_t second = epoch / 1000000000 - (epoch % 1000000000 < 0);
	char buffer[32];

	if (second != known_second) {
		localtime_r(&second, &known);
		known_second = second;
	}
	put(out, buffer, strftime(buffer, sizeof(buffer), full ? "%F %T" : "%T", &known));
	if (full) {
		put_char(out, '.');
		put_decimal(out, since_second / 1000000, 3);
	}
}

static void put_fraction(struct text *out, uint64_t value, uint64_t unit, int digits)
{
	const uint64_t scale = digits == 6 ? 1000000 : 1000;

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

/* Whether VALUE has all bits of a flag that holds those of the flag AT and more. */
static bool has_greater_flag(const struct shim_table *table, uint32_t at, uint64_t value)
{
	/* Keys ascend, and what holds more bits beside the same ones is a greater number. */
	for (uint32_t i = at + 1; i < table->count; i++)
		if ((table->keys[i] & table->keys[at]) == table->keys[at] &&
		    (value & table->keys[i]) == table->keys[i])
			return true;
	return false;
}

static void put_flags(struct text *out, const struct shim_table *table, uint64_t value)
{
	uint64_t unnamed = value;
	bool any = false;

	for (uint32_t i = 0; i < table->count; i++) {
		const uint64_t flag = table->keys[i];

		if (!flag || (value & flag) != flag || has_greater_flag(table, i, value))
			continue;
		put_if(any, out, '|');
		put_string(out, table->texts[i]);
		any = true;
		unnamed &= ~flag;
	}
	if (unnamed)
		put_format(out, any ? "|0x%" PRIx64 : "0x%" PRIx64, unnamed);
	else if (!any)
		put_string(out, table->count && !table->keys[0] ? table->texts[0] : "0");
}

/* A list of texts, each ended by NUL: separated by blanks, or a JSON array. */
static void put_args(struct text *out, const struct shim_column *column, const char *args,
		     const struct part *part, const struct record *record)
{
	const char *begin = args, *end = args + whole_length(args, part);
	bool json = record->plan->as_json, whole = true;
	size_t length;

	put_if(json, out, '[');
	for (; args < end; args += length + 1) {
		length = strnlen(args, end - args);

		bool quoted = json || (column->number && (!length || memchr(args, ' ', length) ||
							  memchr(args, '"', length)));

		put_if(args != begin, out, json ? ',' : ' ');
		put_if(quoted, out, '"');
		whole &= put_text(out, args, length, record->style | (quoted ? QUOTED : 0));
		put_if(quoted, out, '"');
	}
	put_if(json, out, ']');
	if (json && !whole)
		put_base64(out, column->name, begin, part->length);
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
	frames->slots[at].of_tracing = pid == KERNEL && shim_is_of_tracing(name);
	frames->count++;
	memcpy(frames->names + frames->used, name, size);
	frames->used += size;
}

/* Whether a frame is a function that the JIT compiler made: bpf_prog_TAG_NAME. */
static bool is_program(const char *name)
{
	static const char begin[] = "bpf_prog_";
	const size_t length = sizeof(begin) - 1;

	return !strncmp(name, begin, length) && strspn(name + length, "0123456789abcdef") == 16;
}

int shim_is_of_tracing(const char *name)
{
	static const char *const begins[] = {
		/* A program, where the kernel does not list the names of those that it compiled. */
		"[unknown",
		/* Programs, and what calls them: from a tracepoint, or from a function's entry. */
		"__bpf_prog_", "___bpf_prog_run", "bpf_trampoline_", "bpf_dispatcher_",
		"bpf_get_stack", "bpf_trace_run", "__bpf_trace_", "trace_call_bpf", "perf_trace_",
		"perf_call_bpf_", "perf_syscall_", "__traceiter_", "__do_trace_",
		"trace_event_raw_event_",
		/* Probes of functions. */
		"kprobe_ftrace_handler", "kprobe_dispatcher", "kprobe_perf_func", "kprobe_int3_handler",
		"kprobe_breakpoint_", "kprobe_multi_link_", "kretprobe_", "__kretprobe_trampoline",
		"aggr_pre_handler", "opt_pre_handler", "optimized_callback", "fprobe_", "rethook_",
		"arch_rethook_", "ftrace_trampoline", "ftrace_call", "ftrace_regs_call",
		"ftrace_ops_", "ftrace_graph_", "uprobe_dispatcher", "uretprobe_dispatcher",
		"uprobe_perf_func", "uprobe_multi_link_", "uprobe_notify_resume",
		/* Work at the end of a system call for its tracepoint, behind what made the call. */
		"syscall_exit_", "__syscall_exit_", "syscall_trace_exit", "syscall_slow_exit_work",
		"syscall_return_slowpath", "trace_syscall_exit",
	};

	for (size_t i = 0; i < sizeof(begins) / sizeof(*begins); i++)
		if (!strncmp(name, begins[i], strlen(begins[i])))
			return 1;
	return is_program(name);
}

/*
 * Where in a kernel stack of LENGTH bytes the frames begin that are not the tracing's: 0 if there
 * are no others. Returns 0 or -ENOKEY, if the name of a frame is not known yet.
 */
static int skip_tracing(const struct shim_frames *frames, const char *bytes, size_t length,
			size_t *ret)
{
	*ret = 0;
	for (size_t i = 0; i + 8 <= length; i += 8) {
		uint64_t address;
		uint32_t at;

		memcpy(&address, bytes + i, 8);
		at = slot_of(frames, KERNEL, address);
		if (!frames->slots[at].pid)
			return -ENOKEY;
		if (!frames->slots[at].of_tracing) {
			*ret = i;
			break;
		}
	}
	return 0;
}

/* Returns 0 or -ENOKEY. */
static int put_stack(struct text *out, const struct shim_column *column,
		     const struct record *record, struct shim_rendered *ret)
{
	const char *bytes;
	const struct part part = part_at(record, column->offset, &bytes);
	const struct shim_frames *frames = record->plan->frames;
	bool json = record->plan->as_json;
	uint32_t pid = KERNEL;
	size_t begin = 0;

	if (column->kind == SHIM_USER_STACK)
		memcpy(&pid, record->bytes + column->number, sizeof(pid));
	ret->table = UINT32_MAX;
	ret->key = pid;
	if (frames && pid == KERNEL && skip_tracing(frames, bytes, part.length, &begin))
		return -ENOKEY;
	put_if(json, out, '[');
	for (size_t i = begin; i + 8 <= part.length; i += 8) {
		char unknown[32];
		const char *name = unknown;
		uint64_t address;

		memcpy(&address, bytes + i, 8);
		if (frames && pid) {
			uint32_t at = slot_of(frames, pid, address);

			if (!frames->slots[at].pid)
				return -ENOKEY;
			name = frames->names + frames->slots[at].name;
		} else {
			snprintf(unknown, sizeof(unknown), "[unknown+0x%" PRIx64 "]", address);
		}
		put_string(out, !json ? "\n    " : i > begin ? ",\"" : "\"");
		put_text(out, name, strlen(name), record->style);
		put_if(json, out, '"');
	}
	put_if(json, out, ']');
	if (!json && part.state == UNREADABLE)
		put_string(out, "\n    [no frames]");
	return 0;
}

static void put_address(struct text *out, const struct record *record, const char *bytes)
{
	const bool json = record->plan->as_json;
	struct in6_addr address;
	char shown[INET6_ADDRSTRLEN];

	memcpy(&address, bytes, sizeof(address));
	if (IN6_IS_ADDR_V4MAPPED(&address))
		inet_ntop(AF_INET, address.s6_addr + 12, shown, sizeof(shown));
	else
		inet_ntop(AF_INET6, &address, shown, sizeof(shown));
	put_if(json, out, '"');
	put_string(out, shown);
	put_if(json, out, '"');
}

static void put_part(struct text *out, const struct record *record,
		     const struct shim_column *column)
{
	const char *bytes, *names;
	struct part dir, part = part_at(record, column->offset, &bytes);
	bool json = record->plan->as_json, cut = part.state == CUT;
	char joined[3 * 4096];
	size_t length = whole_length(bytes, &part);

	if (part.state == ABSENT || part.state == UNREADABLE) {
		put_string(out, json ? "null" : part.state == ABSENT ? "-" : "?");
		return;
	}
	if (part.state == ADDRESS && part.length == sizeof(struct in6_addr)) {
		put_address(out, record, bytes);
		return;
	}
	if (column->kind == SHIM_ARGS) {
		put_args(out, column, bytes, &part, record);
	} else {
		if (column->kind == SHIM_PATH && !(length && bytes[0] == '/')) {
			dir = part_at(record, column->number, &names);
			if (dir.state != ABSENT) {
				length = join_path(&dir, names, bytes, length, joined, sizeof(joined));
				bytes = joined;
				cut |= dir.state == CUT;
			}
		}
		put_field(out, record, column, bytes, length);
	}
	if (cut && json) {
		put_key(out, ",\"", column->name, "_truncated");
		put_string(out, "true");
	} else if (cut) {
		/* Between two arguments, or in the middle of a text. */
		put_string(out, column->kind == SHIM_ARGS && length && !bytes[length - 1] ? " ..." :
											    "...");
	}
}

/* The first bytes of a value as a number. By its exact size, which is faster than any. */
static uint64_t number_at(const char *at, uint32_t size)
{
	uint64_t eight = 0;
	uint32_t four;
	uint16_t two;

	switch (size < 8 ? size : 8) {
	case 1:
		return (unsigned char)*at;
	case 2:
		memcpy(&two, at, sizeof(two));
		return two;
	case 4:
		memcpy(&four, at, sizeof(four));
		return four;
	case 8:
		memcpy(&eight, at, sizeof(eight));
		return eight;
	default:
		memcpy(&eight, at, size);
		return eight;
	}
}

/* Returns 0 or -ENOKEY. */
static int put_value(struct text *out, const struct record *record,
		     const struct shim_column *column, struct shim_rendered *ret)
{
	const struct shim_plan *plan = record->plan;
	const struct shim_table *table = plan->tables + column->table;
	const char *name, *at = record->bytes + column->offset;
	const int shift = column->size < 8 ? 64 - 8 * column->size : 0;
	const bool json = plan->as_json;
	uint64_t value = number_at(at, column->size), whole;
	const int64_t number = (int64_t)(value << shift) >> shift;

	switch (column->kind) {
	case SHIM_UNSIGNED:
		put_decimal(out, value, 1);
		break;
	case SHIM_SIGNED:
		put_signed(out, number);
		break;
	case SHIM_OPTIONAL:
		if (number == INT64_MAX)
			put_nothing(out, record);
		else
			put_signed(out, number);
		break;
	case SHIM_OCTAL:
		put_format(out, "%04" PRIo64, value);
		break;
	case SHIM_RESULT:
		if (number == INT64_MAX)
			put_nothing(out, record);
		else
			put_signed(out, number < 0 && !json ? -1 : number);
		break;
	case SHIM_ERRNO:
		name = number < 0 ? text_of(table, -(uint64_t)number) : NULL;
		if (name)
			put_string(out, name);
		else
			put_decimal(out, number < 0 ? -(uint64_t)number : 0, 1);
		break;
	case SHIM_NAME:
	case SHIM_OPTIONAL_NAME:
		if (column->kind == SHIM_OPTIONAL_NAME && number == -1) {
			put_nothing(out, record);
			break;
		}
		name = text_of(table, value);
		if (!name) {
			ret->table = column->table;
			ret->key = value;
			return -ENOKEY;
		}
		put_field(out, record, column, name, strlen(name));
		break;
	case SHIM_FLAGS:
		put_flags(out, table, value);
		break;
	case SHIM_EXIT:
		name = number > 0 && (number & 0x7f) ? text_of(table, number & 0x7f) : NULL;
		if (number < 0)
			put_nothing(out, record);
		else if (name && !json)
			put_string(out, name);
		else if (json)
			put_decimal(out, number, 1);
		else
			put_decimal(out, number & 0x7f ? (number & 0x7f) + 128 : number >> 8, 1);
		break;
	case SHIM_SECONDS:
		value -= plan->start;
		put_fraction(out, (int64_t)value < 0 ? 0 : value, 1000000000, 6);
		break;
	case SHIM_CLOCK:
		put_local_time(out, record, value, column->number);
		break;
	case SHIM_EPOCH:
		put_signed(out, to_epoch(record, value));
		break;
	case SHIM_SPAN:
		if (value == UINT64_MAX)
			put_nothing(out, record);
		else if (json)
			put_decimal(out, value, 1);
		else
			put_fraction(out, value, column->number, 3);
		break;
	case SHIM_RATE:
	case SHIM_SHARE:
	case SHIM_BAR:
		memcpy(&whole, record->bytes + column->number, sizeof(whole));
		whole = whole ? whole : 1;
		if (column->kind == SHIM_BAR)
			put_bar(out, (double)value * column->width / whole, column->width);
		else if (column->kind == SHIM_SHARE)
			put_ratio(out, value * 100.0 / whole);
		else
			put_ratio(out, value * 1e9 / whole / (column->unit ? column->unit : 1));
		break;
	case SHIM_ADDRESS:
		put_address(out, record, at);
		break;
	case SHIM_CHARS:
		put_field(out, record, column, at, strnlen(at, column->size));
		break;
	case SHIM_STACK:
	case SHIM_USER_STACK:
		return put_stack(out, column, record, ret);
	default:
		put_part(out, record, column);
	}
	return 0;
}

static int put_record(struct text *out, const struct record *record, struct shim_rendered *ret)
{
	const struct shim_plan *plan = record->plan;

	for (uint32_t i = 0; i < plan->column_count; i++) {
		struct shim_column *column = plan->columns + i;
		const char *begin = out->at;
		const size_t continuing = out->continuing;
		uint32_t width;
		int error;

		if (plan->as_json)
			put_key(out, i ? ",\"" : "{\"", column->name, "");
		error = put_value(out, record, column, ret);
		if (error)
			return error;
		if (plan->as_json || i + 1 == plan->column_count ||
		    plan->columns[i + 1].kind >= SHIM_STACK)
			continue;
		/* Shown characters, not bytes, fill a column. */
		width = out->at - begin - (out->continuing - continuing);
		/* Addresses come in two lengths: once the long one was seen, leave room for it. */
		if (column->kind == SHIM_ADDRESS && width > column->width)
			column->width = width;
		put_blanks(out, 1 + (width < column->width ? column->width - width : 0));
	}
	put_if(plan->as_json, out, '}');
	put_char(out, '\n');
	return 0;
}

int shim_render(const struct shim_plan *plan, const void *batch, size_t size, char *out,
		size_t out_size, struct shim_rendered *ret)
{
	struct text to = { .at = out, .end = out + out_size };
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

		struct record record = { plan, bytes + ret->consumed + sizeof(length), length,
					 plan->as_json ? JSON : plan->ascii ? ASCII : 0 };

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
