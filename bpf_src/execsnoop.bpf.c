/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#define GLOB_MOST 8192 /* arguments are longer than names */

#include "record.bpf.h"
#include "ancestors.bpf.h"
#include "args.bpf.h"
#include "filter.bpf.h"
#include "glob.bpf.h"
#include "path.bpf.h"
#include "syscall.bpf.h"

#define SIGNAL_GROUP_EXIT 4

const volatile __s32 wanted_cpu = -1;
const volatile bool line_globbed; /* the glob is for the arguments, not for the comm */
const volatile bool with_file;
const volatile bool with_cwd;
const volatile bool with_parents;
const volatile bool with_exit;

struct exec {
	ev_time time;
	__u32 pid;
	__u32 ppid;
	ev_uid uid;
	__u32 cpu;
	ev_comm comm;
	ev_ret ret;
	ev_exit exit;
	ev_cgroup cgroup;
	ev_duration duration; /* from the exec to the exit */
	ev_text file;
	ev_dir dir;
	ev_path cwd;
	ev_text parents;
	ev_text env;
	ev_args args;
};

RECORDS(execs, exec, 4 << 20, 16384);

/* What is kept of an exec for the row of its exit. */
struct start {
	__u64 time;
	__u32 ppid;
	ev_comm comm;
};

PAIRS(starts, __u32, struct start, 16384);

/* The row of the current task, without its parts. */
static __always_inline struct execs_draft *draft_row(__u32 ppid, __s64 ret)
{
	struct execs_draft *draft = reserve(execs);

	if (!draft)
		return NULL;

	struct exec *exec = &draft->record;

	exec->time = bpf_ktime_get_boot_ns();
	exec->pid = bpf_get_current_pid_tgid() >> 32;
	exec->ppid = ppid;
	exec->uid = bpf_get_current_uid_gid();
	exec->cpu = bpf_get_smp_processor_id();
	bpf_get_current_comm(exec->comm, sizeof(exec->comm));
	exec->ret = ret;
	exec->cgroup = current_cgroup();
	exec->exit = EV_NO_EXIT;
	exec->duration = EV_NO_DURATION;
	no_part(&exec->file);
	no_part(&exec->dir);
	no_part(&exec->cwd);
	no_part(&exec->parents);
	no_part(&exec->env);
	no_part(&exec->args);
	return draft;
}

static __always_inline struct execs_draft *draft_if_wanted(__u32 ppid, __s64 ret)
{
	if (filtered_out(bpf_get_current_pid_tgid()) || parent_unwanted(ppid) ||
	    (wanted_cpu >= 0 && bpf_get_smp_processor_id() != wanted_cpu))
		return NULL;
	return draft_row(ppid, ret);
}

/* Judge by the glob, before other parts follow the arguments. */
static __always_inline bool row_filtered_out(struct execs_draft *draft)
{
	struct exec *exec = &draft->record;
	const char *text = exec->comm;
	__u32 length = 0;

	if (line_globbed) {
		text = draft->tail;
		length = exec->args.length ? exec->args.length - 1 : 0;
	} else {
		while (length < COMM_LEN - 1 && text[length])
			length++;
	}
	return glob_filtered_out(text, length);
}

static __always_inline int submit_row(struct execs_draft *draft, __u64 env, __u64 env_end)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct exec *exec = &draft->record;

	if (row_filtered_out(draft)) {
		discard(execs, draft);
		return 0;
	}
	if (with_cwd) {
		struct path cwd = BPF_CORE_READ(task, fs, pwd);

		put_directory(draft, &exec->dir, task, &cwd);
		begin_part(draft, &exec->cwd);
	}
	if (with_parents)
		put_parents(tail_of(draft), &exec->parents);
	if (variable_length && env)
		put_variable(tail_of(draft), &exec->env, env, env_end);
	if (with_exit && !exec->ret) {
		struct start start = { .time = exec->time, .ppid = exec->ppid };

		__builtin_memcpy(start.comm, exec->comm, sizeof(start.comm));
		pair_begin(starts, &exec->pid, &start, BPF_ANY);
	}
	submit(execs, draft);
	return 0;
}

static __always_inline int executed(struct task_struct *task, struct linux_binprm *bprm, bool typed)
{
	struct task_struct *parent = READ(typed, task, real_parent);
	struct mm_struct *mm = READ(typed, task, mm);
	__u32 ppid = READ(typed, parent, tgid);
	__u64 begin = READ(typed, mm, arg_start), end = READ(typed, mm, arg_end);
	struct execs_draft *draft = draft_if_wanted(ppid, 0);

	if (!draft)
		return 0;
	if (max_args)
		put_args_singly(tail_of(draft), &draft->record.args, begin, end, 0);
	else
		put_args(tail_of(draft), &draft->record.args, begin, end);
	if (with_file)
		put_kernel_string(draft, &draft->record.file, READ(typed, bprm, filename));
	return submit_row(draft, READ(typed, mm, env_start), READ(typed, mm, env_end));
}

ON_TRACEPOINT(sched_process_exec, exec, , executed(task, bprm, typed),
	      struct task_struct *task, int old_pid, struct linux_binprm *bprm)

/* True if the number belongs to an exec. Sets compat of CALL. */
static __always_inline bool is_exec(struct syscall *call)
{
	bool native = call->number == SYS_execve || call->number == SYS_execveat;

	if (!native && call->number != COMPAT_execve && call->number != COMPAT_execveat)
		return false;
	call->compat = syscall_is_compat();
	return call->compat != native;
}

static __always_inline int exec_failed(void *ctx, const struct syscall *call, __s64 ret)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	bool execveat = call->number == (call->compat ? COMPAT_execveat : SYS_execveat);
	const char *file = (void *)(execveat ? call->args[1] : call->args[0]);
	__u64 argv = execveat ? call->args[2] : call->args[1];
	__u32 ppid = BPF_CORE_READ(task, real_parent, tgid);
	struct execs_draft *draft = ret < 0 ? draft_if_wanted(ppid, ret) : NULL;

	if (!draft)
		return 0;
	put_args_singly(tail_of(draft), &draft->record.args, argv, 0, call->compat ? 4 : 8);
	if (draft->record.args.state == EV_UNREADABLE)
		put_user_string(draft, &draft->record.args, file);
	put_user_string(draft, &draft->record.file, file);
	return submit_row(draft, 0, 0);
}

ON_SYSCALL_EXIT(failed, is_exec, exec_failed)

/* --exit: the last thread of a process ends, of whose exec there was a row. */
static __always_inline int exited(struct task_struct *task, bool typed)
{
	struct signal_struct *signal = READ(typed, task, signal);
	struct task_struct *leader = READ(typed, task, group_leader);
	__u32 pid = bpf_get_current_pid_tgid() >> 32;
	struct execs_draft *draft;
	struct start start;

	if (READ(typed, signal, live.counter) || !pair_end(starts, &pid, &start))
		return 0;
	draft = draft_row(start.ppid, EV_NO_RESULT);
	if (!draft)
		return 0;
	__builtin_memcpy(draft->record.comm, start.comm, sizeof(start.comm));
	draft->record.duration = draft->record.time - start.time;
	draft->record.exit = READ(typed, signal, flags) & SIGNAL_GROUP_EXIT ?
				     READ(typed, signal, group_exit_code) :
				     READ(typed, leader, exit_code);
	submit(execs, draft);
	return 0;
}

ON_TRACEPOINT(sched_process_exit, exit, , exited(task, typed), struct task_struct *task)
