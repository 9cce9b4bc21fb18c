/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "record.bpf.h"
#include "file.bpf.h"
#include "filter.bpf.h"
#include "sample.bpf.h"
#include "glob.bpf.h"
#include "stack.bpf.h"
#include "syscall.bpf.h"
#include "timed.bpf.h"

#define AT_EMPTY_PATH 0x1000

const volatile bool failed_only;
const volatile bool full_path;
const volatile bool with_access;
const volatile bool by_path; /* leave out calls that name no file */
const volatile bool with_duration;

struct stat_call {
	ev_time time;
	__u32 pid;
	__u32 tid;
	ev_uid uid;
	ev_syscall syscall;
	ev_at_flags flags;
	ev_comm comm;
	ev_ret ret;
	ev_duration duration;
	ev_cgroup cgroup;
	ev_dir dir;
	ev_path path;
	ev_stack stack;
	ev_user_stack user_stack;
};

RECORDS(stats, stat_call, 4 << 20, 8192);

/* The kinds of calls: how they name a file, and which argument has their flags. */
#define NO_NAME 1
#define BY_PATH 2 /* the first argument */
#define BY_FD 3	  /* the first argument */
#define BY_BOTH 4 /* a path, relative to the directory that is the first argument */
#define NAMED_BY(kind) ((kind) & 7)
#define FLAGS_AT(argument) ((argument) << 3)
#define ACCESS 0x80 /* only with --access */

SYSCALL_KINDS(native_kinds) = {
	[SYSCALL_INDEX(SYS_stat)] = BY_PATH,
	[SYSCALL_INDEX(SYS_lstat)] = BY_PATH,
	[SYSCALL_INDEX(SYS_fstat)] = BY_FD,
	[SYSCALL_INDEX(SYS_newfstatat)] = BY_BOTH | FLAGS_AT(3),
	[SYSCALL_INDEX(SYS_statx)] = BY_BOTH | FLAGS_AT(2),
	[SYSCALL_INDEX(SYS_statfs)] = BY_PATH,
	[SYSCALL_INDEX(SYS_fstatfs)] = BY_FD,
	[SYSCALL_INDEX(SYS_ustat)] = NO_NAME,
	[SYSCALL_INDEX(SYS_statmount)] = NO_NAME,
	[SYSCALL_INDEX(SYS_file_getattr)] = BY_BOTH | FLAGS_AT(4),
	[SYSCALL_INDEX(SYS_access)] = BY_PATH | ACCESS,
	[SYSCALL_INDEX(SYS_faccessat)] = BY_BOTH | ACCESS,
	[SYSCALL_INDEX(SYS_faccessat2)] = BY_BOTH | FLAGS_AT(3) | ACCESS,
};

SYSCALL_KINDS(compat_kinds) = {
	[SYSCALL_INDEX(COMPAT_oldstat)] = BY_PATH,
	[SYSCALL_INDEX(COMPAT_oldlstat)] = BY_PATH,
	[SYSCALL_INDEX(COMPAT_oldfstat)] = BY_FD,
	[SYSCALL_INDEX(COMPAT_stat)] = BY_PATH,
	[SYSCALL_INDEX(COMPAT_lstat)] = BY_PATH,
	[SYSCALL_INDEX(COMPAT_fstat)] = BY_FD,
	[SYSCALL_INDEX(COMPAT_stat64)] = BY_PATH,
	[SYSCALL_INDEX(COMPAT_lstat64)] = BY_PATH,
	[SYSCALL_INDEX(COMPAT_fstat64)] = BY_FD,
	[SYSCALL_INDEX(COMPAT_fstatat64)] = BY_BOTH | FLAGS_AT(3),
	[SYSCALL_INDEX(COMPAT_statx)] = BY_BOTH | FLAGS_AT(2),
	[SYSCALL_INDEX(COMPAT_statfs)] = BY_PATH,
	[SYSCALL_INDEX(COMPAT_statfs64)] = BY_PATH,
	[SYSCALL_INDEX(COMPAT_fstatfs)] = BY_FD,
	[SYSCALL_INDEX(COMPAT_fstatfs64)] = BY_FD,
	[SYSCALL_INDEX(COMPAT_ustat)] = NO_NAME,
	[SYSCALL_INDEX(COMPAT_statmount)] = NO_NAME,
	[SYSCALL_INDEX(COMPAT_file_getattr)] = BY_BOTH | FLAGS_AT(4),
	[SYSCALL_INDEX(COMPAT_access)] = BY_PATH | ACCESS,
	[SYSCALL_INDEX(COMPAT_faccessat)] = BY_BOTH | ACCESS,
	[SYSCALL_INDEX(COMPAT_faccessat2)] = BY_BOTH | FLAGS_AT(3) | ACCESS,
};

static __always_inline bool is_stat(struct syscall *call)
{
	return is_of_kinds(call, native_kinds, compat_kinds) &&
	       (with_access || !(call->kind & ACCESS));
}

static __always_inline __u32 flags_of(const struct syscall *call)
{
	switch (call->kind & FLAGS_AT(7)) {
	case FLAGS_AT(2):
		return call->args[2];
	case FLAGS_AT(3):
		return call->args[3];
	case FLAGS_AT(4):
		return call->args[4];
	default:
		return 0;
	}
}

/* Put the path of the file that the call is about: as it was given, or that of a descriptor. */
static __always_inline void put_file(struct stats_draft *draft, const struct syscall *call)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct stat_call *stat = &draft->record;
	__u8 named_by = NAMED_BY(call->kind);
	int dirfd = named_by == BY_PATH ? AT_FDCWD : call->args[0];
	bool by_fd = named_by == BY_FD;
	struct path file = {};

	no_part(&stat->dir);
	no_part(&stat->path);
	if (named_by == BY_PATH || named_by == BY_BOTH) {
		put_user_string(draft, &stat->path,
				(void *)call->args[named_by == BY_PATH ? 0 : 1]);
		/* A path may be NULL instead of empty since Linux commit 0ef625bba6fb ("vfs: support
		 * statx(..., NULL, AT_EMPTY_PATH, ...)") (in v6.11). */
		by_fd = stat->flags & AT_EMPTY_PATH && !stat->path.length;
	}
	if (by_fd) {
		no_part(&stat->path); /* in case nothing is open */
		if (path_of_dirfd(task, dirfd, &file))
			put_path(tail_of(draft), &stat->path, task, &file);
	} else if (full_path && stat->path.length && draft->tail[0] != '/') {
		put_directory_of(draft, &stat->dir, task, dirfd);
	}
}

static __always_inline int stat_returned(void *ctx, const struct syscall *call, __s64 ret)
{
	__u64 pid_tgid = bpf_get_current_pid_tgid(), duration = EV_NO_DURATION;
	struct stats_draft *draft;

	if (filtered_out(pid_tgid))
		return 0;
	if (with_duration)
		duration = call_duration(bpf_ktime_get_boot_ns());
	if ((failed_only && ret >= 0) || sampled_out(bpf_get_prandom_u32()))
		return 0;
	draft = reserve(stats);
	if (!draft)
		return 0;

	struct stat_call *stat = &draft->record;

	stat->flags = flags_of(call);
	put_file(draft, call);
	if ((by_path && stat->path.state == EV_ABSENT) ||
	    glob_filtered_out(draft->tail, stat->path.length)) {
		discard(stats, draft);
		return 0;
	}
	put_current_task(stat, pid_tgid);
	stat->syscall = syscall_of(call);
	stat->ret = ret;
	stat->duration = duration;
	put_stacks(draft, ctx);
	submit(stats, draft);
	return 0;
}

ON_SYSCALL_EXIT(stat, is_stat, stat_returned)
ON_TIMED_SYSCALL(is_stat, NULL)
