/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "record.bpf.h"
#include "count.bpf.h"
#include "file.bpf.h"
#include "filter.bpf.h"
#include "glob.bpf.h"
#include "stack.bpf.h"
#include "syscall.bpf.h"
#include "timed.bpf.h"
#include "vma.bpf.h"

const volatile bool failed_only;
const volatile bool by_path; /* leave out calls for no file */
const volatile bool count_only;
const volatile bool per_file;
const volatile __u64 least_ns;

struct sync {
	ev_time time;
	__u32 pid;
	__u32 tid;
	ev_uid uid;
	ev_syscall syscall;
	ev_comm comm;
	ev_ret ret;
	ev_duration duration;
	ev_cgroup cgroup;
	ev_text path;
	ev_stack stack;
	ev_user_stack user_stack;
};

RECORDS(syncs, sync, 1 << 20, 8192);
__u64 starts_lost; /* only with least_ns: without it, calls show without their duration */

struct caller {
	ev_cgroup cgroup;
	__u64 inode;
	ev_name file;
	__u32 device;
	__u32 pid;
	ev_syscall syscall;
	__u32 _padding;
	ev_comm comm;
};

struct totals {
	ev_count calls;
	__u64 failed;
	ev_duration lasted;
};

TOP(callers, caller, totals, 4096);

/* The kinds of calls: what they write. */
#define EVERYTHING 1
#define DESCRIPTOR 2 /* the first argument */
#define MEMORY 3     /* from the first argument on, as many bytes as the second */

SYSCALL_KINDS(native_kinds) = {
	[SYSCALL_INDEX(SYS_sync)] = EVERYTHING,
	[SYSCALL_INDEX(SYS_syncfs)] = DESCRIPTOR,
	[SYSCALL_INDEX(SYS_fsync)] = DESCRIPTOR,
	[SYSCALL_INDEX(SYS_fdatasync)] = DESCRIPTOR,
	[SYSCALL_INDEX(SYS_sync_file_range)] = DESCRIPTOR,
	[SYSCALL_INDEX(SYS_msync)] = MEMORY,
};

SYSCALL_KINDS(compat_kinds) = {
	[SYSCALL_INDEX(COMPAT_sync)] = EVERYTHING,
	[SYSCALL_INDEX(COMPAT_syncfs)] = DESCRIPTOR,
	[SYSCALL_INDEX(COMPAT_fsync)] = DESCRIPTOR,
	[SYSCALL_INDEX(COMPAT_fdatasync)] = DESCRIPTOR,
	[SYSCALL_INDEX(COMPAT_sync_file_range)] = DESCRIPTOR,
	[SYSCALL_INDEX(COMPAT_arm_sync_file_range)] = DESCRIPTOR,
	[SYSCALL_INDEX(COMPAT_msync)] = MEMORY,
};

static __always_inline bool is_sync(struct syscall *call)
{
	return is_of_kinds(call, native_kinds, compat_kinds);
}

/* The file that a call writes, or NULL. */
static __always_inline struct file *file_of(const struct syscall *call)
{
	if (call->kind == DESCRIPTOR)
		return file_of_fd((struct task_struct *)bpf_get_current_task(), call->args[0]);
	return call->kind == MEMORY ? mapped_file(call->args[0]) : NULL;
}

/* Put the path of that file. If there is no file, put the addresses that are written. */
static __always_inline void put_file(struct syncs_draft *draft, const struct syscall *call)
{
	struct file *file = file_of(call);
	struct sync *sync = &draft->record;

	no_part(&sync->path);
	if (file) {
		struct path path = BPF_CORE_READ(file, f_path);

		put_path(tail_of(draft), &sync->path,
			 (struct task_struct *)bpf_get_current_task(), &path);
	} else if (call->kind == MEMORY) {
		begin_part(draft, &sync->path);
		put_literal(tail_of(draft), "[0x");
		put_number(tail_of(draft), call->args[0], 16);
		put_literal(tail_of(draft), "-0x");
		put_number(tail_of(draft), call->args[0] + call->args[1], 16);
		put_byte(tail_of(draft), ']');
		finish_part(draft, &sync->path);
	}
}

static __always_inline void count(const struct syscall *call, __u64 pid_tgid, __s64 ret,
				  __u64 duration)
{
	struct caller caller = {};
	struct totals *totals;

	caller.cgroup = current_cgroup();
	caller.pid = pid_tgid >> 32;
	caller.syscall = syscall_of(call);
	bpf_get_current_comm(caller.comm, sizeof(caller.comm));
	if (per_file) {
		struct file *file = file_of(call);
		struct inode *inode = BPF_CORE_READ(file, f_inode);

		caller.inode = BPF_CORE_READ(inode, i_ino);
		caller.device = BPF_CORE_READ(inode, i_sb, s_dev);
		bpf_probe_read_kernel_str(caller.file, sizeof(caller.file),
					  BPF_CORE_READ(file, f_path.dentry, d_name.name));
	}
	totals = top_of(callers, &caller);
	if (totals) {
		add(totals->calls, 1);
		add(totals->failed, ret < 0);
		add(totals->lasted, duration == EV_NO_DURATION ? 0 : duration);
	}
}

static __always_inline int sync_returned(void *ctx, const struct syscall *call, __s64 ret)
{
	__u64 pid_tgid = bpf_get_current_pid_tgid(), duration;
	struct syncs_draft *draft;

	if (filtered_out(pid_tgid))
		return 0;
	duration = call_duration(bpf_ktime_get_boot_ns());
	/* A call that was under way when the tracing began took nobody knows how long. */
	if ((failed_only && ret >= 0) ||
	    (least_ns && (duration < least_ns || duration == EV_NO_DURATION)))
		return 0;
	if (count_only) {
		count(call, pid_tgid, ret, duration);
		return 0;
	}
	draft = reserve(syncs);
	if (!draft)
		return 0;

	struct sync *sync = &draft->record;

	put_file(draft, call);
	if ((by_path && sync->path.state == EV_ABSENT) ||
	    glob_filtered_out(draft->tail, sync->path.length)) {
		discard(syncs, draft);
		return 0;
	}
	put_current_task(sync, pid_tgid);
	sync->syscall = syscall_of(call);
	sync->ret = ret;
	sync->duration = duration;
	put_stacks(draft, ctx);
	submit(syncs, draft);
	return 0;
}

ON_SYSCALL_EXIT(sync, is_sync, sync_returned)
ON_TIMED_SYSCALL(is_sync, least_ns ? &starts_lost : NULL)
