/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "record.bpf.h"
#include "filter.bpf.h"
#include "sample.bpf.h"
#include "glob.bpf.h"
#include "path.bpf.h"
#include "stack.bpf.h"
#include "syscall.bpf.h"

#define O_WRONLY 1
#define O_RDWR 2
#define O_ACCMODE 3
#define O_CREAT 0100
#define O_TRUNC 01000
#define __O_TMPFILE 020000000
#if defined(__TARGET_ARCH_arm64)
#define O_LARGEFILE 0400000
#else
#define O_LARGEFILE 0100000
#endif

#define WANTED_MOST 32

const volatile bool failed_only;
const volatile bool full_path;
const volatile bool write_only;
const volatile bool some_wanted; /* there are any in the variables below */
const volatile __u32 wanted_access; /* bits 1 << O_RDONLY, 1 << O_WRONLY, 1 << O_RDWR */
const volatile __u32 wanted_flags[WANTED_MOST]; /* each has a bit or more; a 0 ends the list */

struct open {
	ev_time time;
	__u32 pid;
	__u32 tid;
	ev_uid uid;
	ev_open_flags flags;
	ev_mode mode;
	ev_comm comm;
	ev_ret ret;
	ev_cgroup cgroup;
	ev_dir dir;
	ev_path path;
	ev_stack stack;
	ev_user_stack user_stack;
};

RECORDS(opens, open, 4 << 20, 8192);

static __always_inline bool flags_filtered_out(__u64 flags)
{
	__u32 access = 1 << (flags & O_ACCMODE);

	if (write_only && !(access & (1 << O_WRONLY | 1 << O_RDWR)))
		return true;
	if (!some_wanted || wanted_access & access)
		return false;
	for (int i = 0; i < WANTED_MOST && wanted_flags[i]; i++)
		if ((flags & wanted_flags[i]) == wanted_flags[i])
			return false;
	return true;
}

static __always_inline bool unwanted(__u64 pid_tgid, __u64 flags, __s64 ret)
{
	return filtered_out(pid_tgid) || (failed_only && ret >= 0) || flags_filtered_out(flags) ||
	       sampled_out(bpf_get_prandom_u32());
}

static __always_inline int finish(void *ctx, struct opens_draft *draft, __u64 pid_tgid,
				  __u64 flags, __u32 mode, __s64 ret)
{
	struct open *open = &draft->record;

	put_current_task(open, pid_tgid);
	/* Leave out a flag that the kernel adds by itself, and a mode that it does not look at. */
	open->flags = flags & ~O_LARGEFILE;
	open->mode = flags & (O_CREAT | __O_TMPFILE) ? mode & 07777 : 0;
	open->ret = ret;
	put_stack(draft, &open->stack, ctx, 0);
	put_stack(draft, &open->user_stack, ctx, BPF_F_USER_STACK);
	submit(opens, draft);
	return 0;
}

/* The path is KERNEL_PATH, of a struct filename, or else PATHNAME in the caller's memory. */
static __always_inline int opened(void *ctx, int dirfd, const char *pathname,
				  const char *kernel_path, __u64 flags, __u32 mode, __s64 ret)
{
	__u64 pid_tgid = bpf_get_current_pid_tgid();
	struct opens_draft *draft;

	if (unwanted(pid_tgid, flags, ret))
		return 0;
	draft = reserve(opens);
	if (!draft)
		return 0;

	struct open *open = &draft->record;

	if (kernel_path)
		put_kernel_string(draft, &open->path, kernel_path);
	else
		put_user_string(draft, &open->path, pathname);
	if (glob_filtered_out(draft->tail, open->path.length)) {
		discard(opens, draft);
		return 0;
	}
	no_part(&open->dir);
	if (full_path && open->path.length && draft->tail[0] != '/')
		put_directory_of(draft, &open->dir, (struct task_struct *)bpf_get_current_task(),
				 dirfd);
	return finish(ctx, draft, pid_tgid, flags, mode, ret);
}

/* True if the number belongs to an open. Sets compat of CALL. */
static __always_inline bool is_open(struct syscall *call)
{
	if (call->number == SYS_openat || call->number == SYS_open ||
	    call->number == SYS_openat2 || call->number == SYS_creat) {
		call->compat = syscall_is_compat();
		return !call->compat || call->number == SYS_openat2;
	}
	if (call->number == COMPAT_openat || call->number == COMPAT_open ||
	    call->number == COMPAT_creat) {
		call->compat = syscall_is_compat();
		return call->compat;
	}
	return false;
}

static __always_inline int open_returned(void *ctx, const struct syscall *call, __s64 ret)
{
	const struct open_how *user_how = (void *)call->args[2];
	struct open_how how = {};
	const char *pathname = (void *)call->args[1];
	int dirfd = call->args[0];

	if (call->number == SYS_openat2) {
		/* If the struct cannot be read, the call has failed too, and the zeros may stay. */
		bpf_probe_read_user(&how, sizeof(how), user_how);
	} else if (call->number == (call->compat ? COMPAT_openat : SYS_openat)) {
		how.flags = (__u32)call->args[2];
		how.mode = call->args[3];
	} else {
		bool creat = call->number == (call->compat ? COMPAT_creat : SYS_creat);

		dirfd = AT_FDCWD;
		pathname = (void *)call->args[0];
		how.flags = creat ? O_CREAT | O_WRONLY | O_TRUNC : (__u32)call->args[1];
		how.mode = creat ? call->args[1] : call->args[2];
	}
	return opened(ctx, dirfd, pathname, NULL, how.flags, how.mode, ret);
}

SEC("fexit/do_sys_openat2")
int BPF_PROG(open__fexit, int dirfd, const char *pathname, struct open_how *how, long ret)
{
	/* The compiler may have made the result an int: then only its lower half is defined. */
	return opened(ctx, dirfd, pathname, NULL, how->flags, how->mode, (int)ret);
}

ON_SYSCALL_EXIT(open, is_open, open_returned)

/* --all: opens that open__* does not see, because the task is in no open system call. */
static __always_inline int opened_within(void *ctx, int dirfd, struct filename *name,
					 const struct open_flags *op, struct file *file)
{
	struct syscall call = { .number = current_syscall() };

	/* After -EAGAIN a worker of io_uring tries once more, and that counts. */
	if (call.number != NO_SYSCALL && (is_open(&call) || (__s64)file == -11))
		return 0;
	return opened(ctx, dirfd, NULL, BPF_CORE_READ(name, name), BPF_CORE_READ(op, open_flag),
		      BPF_CORE_READ(op, mode), (__u64)file >= -4095ul ? (__s64)file : EV_NO_RESULT);
}

/* The name of do_filp_open() in v7.2. */
SEC("fexit/do_file_open")
int BPF_PROG(all__fexit, int dirfd, struct filename *name, const struct open_flags *op,
	     struct file *file)
{
	return opened_within(ctx, dirfd, name, op, file);
}

SEC("fexit/do_filp_open")
int BPF_PROG(all__fexit_filp, int dirfd, struct filename *name, const struct open_flags *op,
	     struct file *file)
{
	return opened_within(ctx, dirfd, name, op, file);
}

/* open_by_handle_at(2) is given no path, but the file that it has opened has one. */
SEC("fexit/do_handle_open")
int BPF_PROG(handle__fexit, int mountdirfd, void *handle, int flags, long ret)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	__u64 pid_tgid = bpf_get_current_pid_tgid();
	int fd = ret;
	struct path from = {};
	struct opens_draft *draft;

	if (unwanted(pid_tgid, flags, fd))
		return 0;
	draft = reserve(opens);
	if (!draft)
		return 0;

	struct open *open = &draft->record;

	no_part(&open->dir);
	no_text(draft, &open->path);
	if (path_of_fd(task, fd, &from)) {
		put_name(draft, &open->path, &from);
		if (glob_filtered_out(draft->tail, open->path.length)) {
			discard(opens, draft);
			return 0;
		}
		put_directory(draft, &open->dir, task, &from);
	}
	return finish(ctx, draft, pid_tgid, flags, 0, fd);
}
