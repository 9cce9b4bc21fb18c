/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The functions that Python uses beside those of libbpf, for which see bindings.h. This file is a C
 * header and, without the lines that begin with #, the cdef of cffi.
 *
 * Functions return 0 or a negative errno, log nothing themselves, and never call back into Python.
 * Results come through the last parameter, ret. Only one thread at a time may use an argument.
 */
#ifndef SHIM_H
#define SHIM_H
#include <stddef.h>
#include <stdint.h>

size_t shim_log_take(char *buffer, size_t size);

/*
 * An object is opened, which needs no privilege, and then loaded. TYPES is an empty file in memory
 * that must live until then: shim_load fills it with those of the kernel's types that the object
 * needs. With -1 an object can only be looked at. shim_open fails with NULL and errno.
 */
struct bpf_object *shim_open(const void *bytes, size_t size, int types);
int shim_load(struct bpf_object *object, int types);
/*
 * Run a program FREQUENCY times a second on a CPU, until the returned descriptor is closed. To read
 * it yields two u64, of which the second is how long the clock has run, in ns. Returns -ENODEV if
 * the CPU is offline.
 */
int shim_start_clock(int cpu, uint32_t frequency, int program);
/*
 * Run a program of a section uprobe.multi or uretprobe.multi at offsets of a file, until the
 * returned descriptor is closed. That takes a while: shim_close_links closes several in that time.
 */
int shim_link_uprobe(int program, const char *path, const uint64_t *offsets, uint32_t count,
		     int returns);
void shim_close_links(const int *fds, uint32_t count);
int shim_refuses_uprobe_links(void); /* 1 if the kernel has no such links */
int shim_is_overlay(int fd);         /* 1 if the file is on overlayfs */
int shim_refuses_trampolines(void); /* 1 if no fentry or fexit program can be loaded */

/*
 * Records. shim_read moves whole records, each behind a u64 that gives its length and padded to 8
 * bytes, and stops before one that does not fit: *ret is the number of bytes. shim_wait returns 0
 * when the descriptor ring has something to read, -ETIME after timeout ms (-1: never), -EINTR when
 * the descriptor wake is readable, -EPIPE when the reader of the descriptor out is gone, -ESRCH when
 * the process behind the descriptor target has ended. A descriptor of -1 is left out.
 */
struct shim_ring {
	uint64_t *consumer; /* where it has been read to, in a page that the kernel looks at */
	const uint64_t *producer;
	const char *data;
	uint64_t mask; /* of an offset in the data */
};

int shim_read(const struct shim_ring *ring, void *buffer, size_t size, size_t *ret);
int shim_wait(int ring, int wake, int out, int target, int64_t timeout);

/*
 * Replace the values of each element, structs of u64 for each CPU, by one struct of their sums. Of
 * the members whose bit is set in GREATEST it has the greatest value, and not the sum.
 */
void shim_sum(void *values, uint32_t count, uint32_t value_size, uint64_t greatest);
void shim_settle(void); /* wait until all programs that run now have ended */

/*
 * Rendering: columns say which bytes of a record become which text. What a column's number means
 * depends on its kind: it is the unit of a time in ns, the offset of the ev_dir of a path, or the
 * offset of what a rate, share or bar is divided by.
 */
enum shim_kind {
	SHIM_UNSIGNED,
	SHIM_SIGNED,
	SHIM_OPTIONAL, /* signed; INT64_MAX: there is none */
	SHIM_OCTAL,
	SHIM_RESULT,  /* a result, -1 where it is an errno; INT64_MAX: there is none */
	SHIM_ERRNO,   /* the errno's name from the table, 0 where there is none */
	SHIM_NAME,    /* text of a table; an absent key stops the rendering */
	SHIM_OPTIONAL_NAME, /* the same; all bits set: there is none */
	SHIM_FLAGS,   /* texts of a table's keys that the value has, joined by '|' */
	SHIM_EXIT,    /* a wait status: number, or name of the signal from the table */
	SHIM_SECONDS, /* since the plan's start, six decimals */
	SHIM_CLOCK,   /* local time of day; with unit 1 date and milliseconds */
	SHIM_EPOCH,   /* ns since 1970 */
	SHIM_SPAN,    /* a duration in the given unit, three decimals */
	SHIM_RATE,    /* a number per second, the u64 at the given offset being the ns */
	SHIM_SHARE,   /* of the u64 at the given offset, in percent */
	SHIM_BAR,     /* as long as the column if it equals the u64 at the given offset */
	SHIM_ADDRESS, /* 16 bytes of IPv6, shown as IPv4 where they hold that; widens its column */
	SHIM_CHARS,   /* char array, ended by its size or a NUL */
	SHIM_TEXT, /* or an address, if its state says so */
	SHIM_PATH,
	SHIM_ARGS,
	SHIM_STACK,      /* of the kernel: its frames are those of pid UINT32_MAX */
	SHIM_USER_STACK, /* of the process whose u32 is at the given offset */
};

struct shim_column {
	const char *name; /* JSON key */
	uint32_t kind, offset, size, width, table;
	uint32_t number;
	uint32_t unit; /* of what is told per second; 0 is the same as 1 */
};

struct shim_table {
	const uint64_t *keys; /* ascending */
	const char *const *texts;
	uint32_t count;
};

/*
 * Names of frames. They are forgotten when they become too many, so put all names of a stack at
 * once. A struct of zeros is empty.
 */
struct shim_frames {
	struct {
		uint64_t address;
		uint32_t pid, name : 31, of_tracing : 1;
	} slots[16384];
	uint32_t count, used;
	char names[1048576];
};

struct shim_plan {
	struct shim_column *columns;
	const struct shim_table *tables;
	uint32_t column_count;
	uint32_t record_size; /* of the struct; a shorter record is bad */
	uint32_t as_json, ascii;
	uint64_t start;   /* CLOCK_BOOTTIME, ns */
	int64_t to_epoch; /* ns to add to CLOCK_BOOTTIME */
	const struct shim_frames *frames; /* if NULL, unknown frames do not stop it */
};

struct shim_rendered {
	size_t consumed, produced; /* bytes of the batch; bytes of text */
	uint32_t records, bad;
	uint32_t table; /* with -ENOKEY: of this table, this key; UINT32_MAX: frames of this pid */
	uint64_t key;
};

/* -ENOSPC: out is full, write it and go on behind consumed; -ENOKEY: see struct shim_rendered. */
int shim_render(const struct shim_plan *plan, const void *batch, size_t size, char *out,
		size_t out_size, struct shim_rendered *ret);
size_t shim_escape(const char *text, size_t length, int ascii, char *out, size_t out_size);

/*
 * Write all, in pieces that do not block for long: -EINTR when wake became readable, -ETIME when
 * timeout ms (-1: none) have passed; *ret tells how far it got.
 */
int shim_write(int fd, const char *text, size_t size, int wake, int64_t timeout, size_t *ret);

/* True if a frame at the inner end of a kernel stack belongs to the tracing itself. */
int shim_is_of_tracing(const char *name);
void shim_frames_put(struct shim_frames *frames, uint32_t pid, uint64_t address, const char *name);
void shim_frames_forget(struct shim_frames *frames);

/*
 * Names of functions. A file may be closed after it was read.
 * Instead of a file there may be lines, "address size name" in hexadecimal, or those of kallsyms,
 * "address type name", of which only code is read. Other lines are left out. The text is changed,
 * and must stay where it is.
 * shim_elf_find looks up the function at an offset of the file, or at an address for lines. DEBUG
 * has the symbols: it is a separate debug file, or the file itself. *ret is the number of bytes
 * from the function's start. shim_elf_offset finds the offset of a function that the file itself
 * defines.
 */
struct shim_segment {
	uint64_t offset, address, size;
};

typedef struct {
	uint8_t build_id[64];
	uint32_t build_id_size;
	uint32_t debug_crc;
	char debug_link[256]; /* name of the separate debug file, or "" */
	int has_symtab;
	uint64_t bytes; /* of memory */
	void *file;     /* of libelf, or NULL */
	struct shim_segment segments[16]; /* of code */
	uint32_t segment_count;
	int unsorted;
	size_t count;
	struct shim_symbol *symbols; /* by address */
} shim_elf;

int shim_elf_open(int fd, shim_elf **ret);
int shim_elf_of_lines(char *text, size_t size, int kallsyms, shim_elf **ret);
void shim_elf_close(shim_elf *elf);
int shim_elf_find(const shim_elf *elf, const shim_elf *debug, uint64_t offset, const char **name,
		  uint64_t *ret);
int shim_elf_offset(const shim_elf *elf, const char *name, uint64_t *ret);

/* The C++ name, cut if it is long; -EINVAL if it is none, is huge, or libstdc++ is absent. */
int shim_demangle(const char *mangled, char *out, size_t out_size);
#endif
