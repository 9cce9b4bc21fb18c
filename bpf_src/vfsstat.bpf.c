/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "record.bpf.h"
#include "count.bpf.h"
#include "filter.bpf.h"
#include "path.bpf.h"
#include "syscall.bpf.h"

#define EBADF 9
#define AT_REMOVEDIR 0x200
#define FMODE_CREATED 0x100000

struct operations {
	ev_count read, write, fsync, open, create, unlink, mkdir, rmdir;
	ev_count stat, rename, link, symlink, readdir;
};

ROW(calls, operations, 4096);

/* An operation is identified by the offset of its counter. */
#define OPERATION(what) __builtin_offsetof(struct operations, what)
#define NO_OPERATION sizeof(struct operations)

static __always_inline int count_operation(__u64 operation)
{
	void *sums;

	if (operation >= NO_OPERATION || filtered_out(bpf_get_current_pid_tgid()))
		return 0;
	sums = row_of(calls, current_cgroup());
	if (sums)
		add(*(__u64 *)(sums + operation), 1);
	return 0;
}

/*
 * A program on the function FUNC for each way of attaching to it. All of them are optional, because
 * the compiler may have inlined the function.
 */
#define ON_UNLESS(ladder, what, part, func, condition)                                         \
	SEC("?fentry/" #func)                                                                  \
	int BPF_PROG(ladder##__fentry__##part)                                                 \
	{                                                                                      \
		return condition ? 0 : count_operation(OPERATION(what));                       \
	}                                                                                      \
	SEC("?kprobe.multi/" #func)                                                            \
	int BPF_KPROBE(ladder##__kprobe_multi__##part)                                         \
	{                                                                                      \
		return condition ? 0 : count_operation(OPERATION(what));                       \
	}                                                                                      \
	SEC("?kprobe/" #func)                                                                  \
	int BPF_KPROBE(ladder##__kprobe__##part)                                               \
	{                                                                                      \
		return condition ? 0 : count_operation(OPERATION(what));                       \
	}
#define ON(ladder, what, part, func) ON_UNLESS(ladder, what, part, func, false)
#define ON_SYSCALL(ladder, what, part, func) ON(ladder, what, part, func)

/* True if the task is in a system call that was counted when it began. */
static __always_inline bool is_syncing(void)
{
	__s64 number = current_syscall();

	return (number == SYS_fsync || number == SYS_fdatasync) && !syscall_is_compat();
}

ON(calls, read, read, vfs_read)
ON(calls, read, readv, vfs_readv)
ON(calls, write, write, vfs_write)
ON(calls, write, writev, vfs_writev)
/* Debian's v5.10 has vfs_fsync_range() inlined in fdatasync(2). */
ON_SYSCALL(calls, fsync, sys_fsync, SYSCALL_FUNCTION(fsync))
ON_SYSCALL(calls, fsync, sys_fdatasync, SYSCALL_FUNCTION(fdatasync))
ON_UNLESS(calls, fsync, fsync, vfs_fsync_range, is_syncing())
ON(calls, open, open, vfs_open)
/*
 * Every operation that changes names asks the security modules, whose functions are never inlined,
 * unlike vfs_rmdir() and vfs_getattr(). open(O_CREAT) does not call vfs_create(), but calls this.
 */
ON(calls, create, create, security_inode_create)
ON(calls, unlink, unlink, security_inode_unlink)
ON(calls, mkdir, mkdir, security_inode_mkdir)
ON(calls, rmdir, rmdir, security_inode_rmdir)
ON(extra, stat, stat, security_inode_getattr)
ON(extra, rename, rename, security_inode_rename)
ON(extra, link, link, security_inode_link)
ON(extra, symlink, symlink, security_inode_symlink)
ON(extra, readdir, readdir, iterate_dir)

/*
 * The operation that a system call asks for, by its number, for kernels on which no function can be
 * attached to. PREFIX is that of the numbers: SYS or COMPAT.
 */
#define OPERATION_OF(prefix, number)                                                           \
	switch (number) {                                                                      \
	case prefix##_read:                                                                    \
	case prefix##_pread64:                                                                 \
	case prefix##_readv:                                                                   \
	case prefix##_preadv:                                                                  \
	case prefix##_preadv2:                                                                 \
		return OPERATION(read);                                                        \
	case prefix##_write:                                                                   \
	case prefix##_pwrite64:                                                                \
	case prefix##_writev:                                                                  \
	case prefix##_pwritev:                                                                 \
	case prefix##_pwritev2:                                                                \
		return OPERATION(write);                                                       \
	case prefix##_fsync:                                                                   \
	case prefix##_fdatasync:                                                               \
		return OPERATION(fsync);                                                       \
	case prefix##_open:                                                                    \
	case prefix##_openat:                                                                  \
	case prefix##_openat2:                                                                 \
	case prefix##_creat:                                                                   \
		return OPERATION(open);                                                        \
	case prefix##_unlink:                                                                  \
	case prefix##_unlinkat:                                                                \
		return OPERATION(unlink);                                                      \
	case prefix##_mkdir:                                                                   \
	case prefix##_mkdirat:                                                                 \
		return OPERATION(mkdir);                                                       \
	case prefix##_rmdir:                                                                   \
		return OPERATION(rmdir);                                                       \
	case prefix##_stat:                                                                    \
	case prefix##_lstat:                                                                   \
	case prefix##_fstat:                                                                   \
	case prefix##_stat64:                                                                  \
	case prefix##_lstat64:                                                                 \
	case prefix##_fstat64:                                                                 \
	case prefix##_newfstatat:                                                              \
	case prefix##_fstatat64:                                                               \
	case prefix##_statx:                                                                   \
		return OPERATION(stat);                                                        \
	case prefix##_rename:                                                                  \
	case prefix##_renameat:                                                                \
	case prefix##_renameat2:                                                               \
		return OPERATION(rename);                                                      \
	case prefix##_link:                                                                    \
	case prefix##_linkat:                                                                  \
		return OPERATION(link);                                                        \
	case prefix##_symlink:                                                                 \
	case prefix##_symlinkat:                                                               \
		return OPERATION(symlink);                                                     \
	case prefix##_getdents:                                                                \
	case prefix##_getdents64:                                                              \
		return OPERATION(readdir);                                                     \
	}                                                                                      \
	return NO_OPERATION

static __always_inline __u64 native_operation(__s32 number)
{
	OPERATION_OF(SYS, number);
}

static __always_inline __u64 compat_operation(__s32 number)
{
	OPERATION_OF(COMPAT, number);
}

static __always_inline bool has_created(int fd)
{
	struct file *file = file_of_fd((void *)bpf_get_current_task(), fd);

	return file && BPF_CORE_READ(file, f_mode) & FMODE_CREATED;
}

static __always_inline int returned(struct pt_regs *regs, __s32 number, __s64 ret, bool extra,
				    bool typed)
{
	bool compat = typed_syscall_is_compat(regs, typed);
	__u64 operation = compat ? compat_operation(number) : native_operation(number);
	struct syscall call = { .compat = compat };

	if ((operation >= OPERATION(stat)) != extra)
		return 0;
	/* A call that fails before it reaches the file system is no operation. */
	if (operation <= OPERATION(fsync) ? ret == -EBADF : ret < 0)
		return 0;
	if (operation == OPERATION(open) && has_created(ret))
		count_operation(OPERATION(create));
	if (number == (compat ? COMPAT_unlinkat : SYS_unlinkat)) {
		if (typed)
			__syscall_read(&call, regs, READ_DIRECTLY);
		else
			__syscall_read(&call, regs, READ_BY_PROBE);
		if (call.args[2] & AT_REMOVEDIR)
			operation = OPERATION(rmdir);
	}
	return count_operation(operation);
}

#define BY_SYSCALLS(ladder, extra)                                                             \
	SEC("tp_btf/sys_exit")                                                                 \
	int BPF_PROG(ladder##__tp_btf, struct pt_regs *regs, long ret)                         \
	{                                                                                      \
		__s64 number = made_syscall(__syscall_number(regs, READ_DIRECTLY), ret);       \
		return returned(regs, number, ret, extra, true);                               \
	}                                                                                      \
	SEC("raw_tp/sys_exit")                                                                 \
	int BPF_PROG(ladder##__raw_tp, struct pt_regs *regs, long ret)                         \
	{                                                                                      \
		__s64 number = made_syscall(__syscall_number(regs, READ_BY_PROBE), ret);       \
		return returned(regs, number, ret, extra, false);                              \
	}

BY_SYSCALLS(calls, false)
BY_SYSCALLS(extra, true)
