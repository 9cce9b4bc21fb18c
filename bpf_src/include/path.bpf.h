/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The directory that a relative path starts from: the working directory or that of a dirfd. */
#ifndef PATH_BPF_H
#define PATH_BPF_H

#include "record.bpf.h"

#define PATH_DEPTH 48
#define AT_FDCWD -100

static __always_inline struct file *file_of_fd(struct task_struct *task, int fd)
{
	struct fdtable *table = BPF_CORE_READ(task, files, fdt);
	struct file **files = BPF_CORE_READ(table, fd);
	struct file *file = NULL;

	if (fd < 0 || (__u32)fd >= BPF_CORE_READ(table, max_fds))
		return NULL;
	bpf_probe_read_kernel(&file, sizeof(file), files + fd);
	return file;
}

static __always_inline bool path_of_fd(struct task_struct *task, int fd, struct path *ret)
{
	struct file *file = file_of_fd(task, fd);

	if (!file)
		return false;
	*ret = BPF_CORE_READ(file, f_path);
	return true;
}

/* The same for a descriptor that paths may start from: AT_FDCWD is the working directory. */
static __always_inline bool path_of_dirfd(struct task_struct *task, int dirfd, struct path *ret)
{
	if (dirfd != AT_FDCWD)
		return path_of_fd(task, dirfd, ret);
	*ret = BPF_CORE_READ(task, fs, pwd);
	return true;
}

/* Go to the parent directory, or from the root of a mount to the mount point. */
static __always_inline bool step_up(struct path *at, bool *named)
{
	struct dentry *parent = BPF_CORE_READ(at->dentry, d_parent);
	struct mount *mount = container_of(at->mnt, struct mount, mnt);
	struct mount *above;

	*named = at->dentry != BPF_CORE_READ(at->mnt, mnt_root) && at->dentry != parent;
	if (*named) {
		at->dentry = parent;
		return true;
	}
	above = BPF_CORE_READ(mount, mnt_parent);
	at->dentry = BPF_CORE_READ(mount, mnt_mountpoint);
	at->mnt = (void *)above + bpf_core_field_offset(struct mount, mnt);
	return above != mount;
}

/*
 * Append the own name of the file AT, and make AT its directory, for put_directory().
 * The root of a mount is called "/": it has the name of its mount point instead.
 */
#define put_name(draft, ret, at)                                                               \
	({                                                                                     \
		bool __ignored;                                                                \
		if ((at)->dentry == BPF_CORE_READ((at)->mnt, mnt_root))                        \
			step_up(at, &__ignored);                                               \
		put_kernel_string(draft, ret, BPF_CORE_READ((at)->dentry, d_name.name));       \
		(at)->dentry = BPF_CORE_READ((at)->dentry, d_parent);                          \
	})

/*
 * Append the names from the path FROM up to the task's root, the deepest first, each ended by NUL.
 * The loop jumps back only at its end, because v5.10 refuses a loop that is entered otherwise.
 */
#define put_directory(draft, ret, task, from)                                                  \
	({                                                                                     \
		struct path __root = BPF_CORE_READ(task, fs, root);                            \
		struct path __at = *(from);                                                    \
		begin_part(draft, ret);                                                        \
		(ret)->state = EV_CUT;                                                         \
		for (int __i = 0; __i < PATH_DEPTH; __i++) {                                   \
			const unsigned char *__name = BPF_CORE_READ(__at.dentry, d_name.name); \
			__u64 __begin = tail_at(draft);                                        \
			__s64 __got = 0;                                                       \
			bool __named;                                                          \
			if ((__at.dentry == __root.dentry && __at.mnt == __root.mnt) ||        \
			    !step_up(&__at, &__named)) {                                       \
				(ret)->state = EV_WHOLE;                                       \
				break;                                                         \
			}                                                                      \
			if (__begin >= TAIL_BYTES(draft))                                      \
				break;                                                         \
			if (__named)                                                           \
				__got = bpf_probe_read_kernel_str((draft)->tail + __begin,     \
								  256, __name);                \
			if (__got < 0)                                                         \
				break;                                                         \
			(draft)->used = __begin + __got;                                       \
		}                                                                              \
		finish_part(draft, ret);                                                       \
	})

/* Append the directory that paths relative to DIRFD start from. */
#define put_directory_of(draft, ret, task, dirfd)                                              \
	({                                                                                     \
		struct path __from = {};                                                       \
		if (path_of_dirfd(task, dirfd, &__from))                                       \
			put_directory(draft, ret, task, &__from);                              \
		else                                                                           \
			(ret)->state = EV_UNREADABLE;                                          \
	})

#endif
