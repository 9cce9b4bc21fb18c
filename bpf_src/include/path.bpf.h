/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The directory that a relative path starts from: the working directory, or a dirfd. */
#ifndef PATH_BPF_H
#define PATH_BPF_H

#include "record.bpf.h"

#define PATH_DEPTH 48
#define AT_FDCWD -100

static __always_inline bool path_of_fd(struct task_struct *task, int fd, struct path *ret)
{
	struct fdtable *table = BPF_CORE_READ(task, files, fdt);
	struct file **files = BPF_CORE_READ(table, fd);
	struct file *file = NULL;

	if (fd < 0 || (__u32)fd >= BPF_CORE_READ(table, max_fds))
		return false;
	bpf_probe_read_kernel(&file, sizeof(file), files + fd);
	if (!file)
		return false;
	*ret = BPF_CORE_READ(file, f_path);
	return true;
}

/*
 * Append the names from PATH up to the task's root, deepest first, each ended by NUL. The walk
 * follows d_parent, and at the root of a mount goes on where that mount is mounted.
 */
#define put_directory(draft, ret, task, from)                                                   \
	({                                                                                     \
		struct path __root = BPF_CORE_READ(task, fs, root);                            \
		struct dentry *__dentry = (from)->dentry;                                      \
		struct vfsmount *__mnt = (from)->mnt;                                          \
		begin_part(draft, ret);                                                        \
		(ret)->state = EV_CUT;                                                         \
		for (int __i = 0; __i < PATH_DEPTH; __i++) {                                   \
			if (__dentry == __root.dentry && __mnt == __root.mnt) {                \
				(ret)->state = EV_WHOLE;                                       \
				break;                                                         \
			}                                                                      \
			struct dentry *__parent = BPF_CORE_READ(__dentry, d_parent);           \
			if (__dentry == BPF_CORE_READ(__mnt, mnt_root) ||                      \
			    __dentry == __parent) {                                            \
				struct mount *__mount = container_of(__mnt, struct mount, mnt); \
				struct mount *__above = BPF_CORE_READ(__mount, mnt_parent);    \
				if (__above == __mount) {                                      \
					(ret)->state = EV_WHOLE;                               \
					break;                                                 \
				}                                                              \
				__dentry = BPF_CORE_READ(__mount, mnt_mountpoint);             \
				__mnt = (void *)__above + bpf_core_field_offset(struct mount, mnt); \
				continue;                                                      \
			}                                                                      \
			__u64 __begin = tail_at(draft);                                        \
			if (__begin >= TAIL_BYTES(draft))                                      \
				break;                                                         \
			__s64 __got = bpf_probe_read_kernel_str(                               \
				(draft)->tail + __begin, 256,                                  \
				BPF_CORE_READ(__dentry, d_name.name));                         \
			if (__got <= 0)                                                        \
				break;                                                         \
			(draft)->used = __begin + __got;                                       \
			__dentry = __parent;                                                   \
		}                                                                              \
		finish_part(draft, ret);                                                       \
	})

#endif
