/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The whole path of a file that is open, or what stands for it. */
#ifndef FILE_BPF_H
#define FILE_BPF_H

#include "path.bpf.h"

#define NAME_MOST 255 /* NAME_MAX */

#define PIPEFS_MAGIC 0x50495045
#define SOCKFS_MAGIC 0x534f434b
#define ANON_INODE_FS_MAGIC 0x09041934

static __always_inline void put_byte(struct tail tail, char byte)
{
	__u64 at = used_of(tail);

	if (at < tail.most) {
		tail.bytes[at] = byte;
		*tail.used = at + 1;
	}
}

/* Append a literal string. */
#define put_literal(tail, text)                                                                \
	({                                                                                     \
		__u64 __at = used_of(tail);                                                    \
		if (__at < (tail).most) {                                                      \
			__builtin_memcpy((tail).bytes + __at, text, sizeof(text) - 1);         \
			*(tail).used = __at + sizeof(text) - 1;                                \
		}                                                                              \
	})

/* Append a string of the kernel that is as short as the name of a file. */
static __always_inline void put_short(struct tail tail, const void *from)
{
	__u64 at = used_of(tail);
	__s64 got = -1;

	if (at < tail.most)
		got = bpf_probe_read_kernel_str(tail.bytes + at, NAME_MOST + 1, from);
	if (got > 0)
		*tail.used = at + got - 1;
}

/* Append a number in digits of a base of up to 16. */
static __always_inline void put_number(struct tail tail, __u64 number, __u32 base)
{
	__u64 unit = 1;

	for (int i = 0; i < 20 && number / unit >= base; i++)
		unit *= base;
	for (int i = 0; i < 20 && unit; i++) {
		__u32 digit = number / unit % base;

		put_byte(tail, digit < 10 ? '0' + digit : 'a' + digit - 10);
		unit /= base;
	}
}

/* True for a file that is in no directory, such as a pipe. */
static __always_inline bool is_unlisted(const struct path *at)
{
	return at->dentry == BPF_CORE_READ(at->dentry, d_parent) &&
	       at->dentry != BPF_CORE_READ(at->mnt, mnt_root);
}

/* Append what /proc/PID/fd calls such a file: pipe:[INODE], anon_inode:[eventfd], /memfd:NAME. */
static __always_inline void put_unlisted(struct tail tail, struct dentry *dentry)
{
	const unsigned char *name = BPF_CORE_READ(dentry, d_name.name);
	__u64 magic = BPF_CORE_READ(dentry, d_sb, s_magic);
	char first = 0;

	bpf_probe_read_kernel(&first, sizeof(first), name);
	if (magic == PIPEFS_MAGIC) {
		put_literal(tail, "pipe");
	} else if (magic == SOCKFS_MAGIC) {
		put_literal(tail, "socket");
	} else if (magic == ANON_INODE_FS_MAGIC) {
		put_literal(tail, "anon_inode:");
		put_short(tail, name);
		return;
	} else if (first && first != '/') {
		put_byte(tail, '/');
		put_short(tail, name);
		return;
	} else {
		put_short(tail, BPF_CORE_READ(dentry, d_sb, s_type, name));
	}
	put_literal(tail, ":[");
	put_number(tail, BPF_CORE_READ(dentry, d_inode, i_ino), 10);
	put_byte(tail, ']');
}

/* The names on the way from a file up to the root; NULL for the root of a mount. */
struct file_names {
	__u32 count;
	const unsigned char *names[PATH_DEPTH];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct file_names);
} file_names SEC(".maps");

/* Keep the names from AT up to the task's root; EV_CUT if there are too many. */
static __always_inline __u16 keep_names(struct file_names *kept, struct task_struct *task,
					struct path at)
{
	struct path root = BPF_CORE_READ(task, fs, root);

	for (__u32 i = 0; i < PATH_DEPTH; i++) {
		const unsigned char *name = BPF_CORE_READ(at.dentry, d_name.name);
		bool named;

		kept->count = i;
		if ((at.dentry == root.dentry && at.mnt == root.mnt) || !step_up(&at, &named))
			return EV_WHOLE;
		kept->names[i] = named ? name : NULL;
	}
	return EV_CUT;
}

/* Append these names from the last to the first one, each behind a slash. */
static __always_inline void put_kept_names(struct tail tail, const struct file_names *kept)
{
	for (__u32 i = 0; i < PATH_DEPTH; i++) {
		__u64 at = kept->count - 1 - i;

		barrier_var(at);
		if (at >= PATH_DEPTH)
			break;
		if (kept->names[at]) {
			put_byte(tail, '/');
			put_short(tail, kept->names[at]);
		}
	}
}

/* Append the whole path of the file AT, as the task sees it. */
static __always_inline void put_path(struct tail tail, struct ev_part *ret,
				     struct task_struct *task, const struct path *at)
{
	struct file_names *kept = bpf_map_lookup_elem(&file_names, &(__u32){ 0 });

	begin_tail_part(tail, ret, EV_WHOLE);
	if (!kept)
		return;
	if (is_unlisted(at)) {
		put_unlisted(tail, at->dentry);
	} else {
		ret->state = keep_names(kept, task, *at);
		if (ret->state == EV_CUT)
			put_literal(tail, "...");
		put_kept_names(tail, kept);
		if (used_of(tail) == ret->at)
			put_byte(tail, '/'); /* the root has no name */
	}
	finish_tail_part(tail, ret);
}

#endif
