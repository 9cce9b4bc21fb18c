/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "record.bpf.h"
#include "filter.bpf.h"
#include "read.bpf.h"
#include "stack.bpf.h"
#include "syscall.bpf.h"
#include "drift/pid.bpf.h"

#define EBADF 9
#define EAGAIN 11
#define EINVAL 22
#define SI_USER 0
#define SI_TKILL -6
#define SI_KERNEL 0x80
#define SEND_SIG_NOINFO ((struct kernel_siginfo *)0)
#define SEND_SIG_PRIV ((struct kernel_siginfo *)1)
#define PIDFD_SIGNAL_THREAD 1
#define PIDFD_SIGNAL_PROCESS_GROUP 4
#define SIGNALS_MOST 128 /* above every signal */

const volatile bool failed_only;
const volatile bool kill_only;
const volatile bool without_probes;
const volatile bool with_kernels;
const volatile __u32 wanted_tpid;
const volatile bool some_signals_wanted;
const volatile bool wanted_signals[SIGNALS_MOST];

/* The calls that send signals. From BY_QUEUE on they take a struct siginfo of the caller. */
enum call { BY_KILL = 1, BY_TKILL, BY_TGKILL, BY_QUEUE, BY_THREAD_QUEUE, BY_PIDFD };

SYSCALL_KINDS(native_kinds) = {
	[SYSCALL_INDEX(SYS_kill)] = BY_KILL,
	[SYSCALL_INDEX(SYS_pidfd_send_signal)] = BY_PIDFD,
	[SYSCALL_INDEX(SYS_tkill)] = BY_TKILL,
	[SYSCALL_INDEX(SYS_tgkill)] = BY_TGKILL,
	[SYSCALL_INDEX(SYS_rt_sigqueueinfo)] = BY_QUEUE,
	[SYSCALL_INDEX(SYS_rt_tgsigqueueinfo)] = BY_THREAD_QUEUE,
};
SYSCALL_KINDS(compat_kinds) = {
	[SYSCALL_INDEX(COMPAT_kill)] = BY_KILL,
	[SYSCALL_INDEX(COMPAT_pidfd_send_signal)] = BY_PIDFD,
	[SYSCALL_INDEX(COMPAT_tkill)] = BY_TKILL,
	[SYSCALL_INDEX(COMPAT_tgkill)] = BY_TGKILL,
	[SYSCALL_INDEX(COMPAT_rt_sigqueueinfo)] = BY_QUEUE,
	[SYSCALL_INDEX(COMPAT_rt_tgsigqueueinfo)] = BY_THREAD_QUEUE,
};

struct signal {
	ev_time time;
	__u32 pid;
	__u32 tid;
	ev_uid uid;
	ev_cgroup cgroup;
	ev_comm comm;
	ev_signal signal;
	ev_signal_call call;
	ev_signal_outcome outcome; /* for a group of processes, it is not told */
	ev_number tpid; /* negative for a group; 0: the sender's own, -1: all processes */
	ev_number ttid; /* if a certain thread is meant */
	ev_text tcomm;
	ev_ret ret;
	ev_signal_code code;
	ev_number value;
	ev_stack stack;
	ev_user_stack user_stack;
};

RECORDS(signals, signal, 4 << 20, 8192);

/* A task that a signal is for. */
struct target {
	__u32 pid;
	__u32 tid;
	bool for_thread;
	ev_signal_outcome outcome;
	ev_comm comm;
};

/*
 * What a thread's signal went to, from its sending until the system call returns: by then a killed
 * process may be gone. What finds no room is looked up instead.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, __u32);
	__type(value, struct target);
} targets SEC(".maps");

/* What a call has asked for. */
struct asked {
	__u32 signal;
	__s64 pid; /* the tpid of a record */
	__s32 tid; /* 0 if no certain thread is meant */
	bool for_group;
	const void *info;
};

static __always_inline bool is_signal_call(struct syscall *call)
{
	return is_of_kinds(call, native_kinds, compat_kinds);
}

static __always_inline bool signal_filtered_out(__u32 signal)
{
	__u64 at = signal;

	if (without_probes && !signal)
		return true;
	barrier_var(at); /* v5.10's verifier needs the bound right before its use */
	return some_signals_wanted && !(at < SIGNALS_MOST && wanted_signals[at]);
}

static __always_inline void put_task(struct target *ret, struct task_struct *task, bool typed)
{
	ret->pid = READ(typed, task, tgid);
	ret->tid = READ(typed, task, pid);
	bpf_probe_read_kernel_str(ret->comm, sizeof(ret->comm), &task->comm);
}

/*
 * True if a system call of the current task sends this signal to the task: it has INFO on its
 * stack, which interrupts and what they send do not use. After the call the kernel may send more,
 * such as SIGCHLD of a process that has killed itself, with codes above 0. Such codes only a
 * process that queues signals to itself may use.
 */
static __always_inline bool is_of_call(struct kernel_siginfo *info, const struct target *target)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct syscall call = { .number = current_syscall() };
	__u64 stack = (__u64)BPF_CORE_READ(task, stack), end = stack + THREAD_SIZE;
	bool queued;

	barrier_var(end); /* compare pointers: the verifier allows no sums of them */
	if (!is_signal_call(&call) || (__u64)info < stack || (__u64)info >= end)
		return false;
	queued = call.kind >= BY_QUEUE;
	return BPF_CORE_READ(info, si_code) <= 0 ||
	       (queued && target->pid == bpf_get_current_pid_tgid() >> 32);
}

/* The si_code of a signal. INFO may be a small number that stands for a signal without one. */
static __always_inline __s32 code_of(struct kernel_siginfo *info)
{
	if (info == SEND_SIG_NOINFO)
		return SI_USER;
	return info == SEND_SIG_PRIV ? SI_KERNEL : BPF_CORE_READ(info, si_code);
}

#define CODE(signal, code) ((__u64)((signal) & 0x7fffffff) << 32 | (__u32)(code))

static __always_inline int generated(void *ctx, int sig, struct kernel_siginfo *info,
				     struct task_struct *task, int for_group, int outcome,
				     bool typed)
{
	__u64 pid_tgid = bpf_get_current_pid_tgid();
	__u32 tid = pid_tgid;
	struct target target = { .outcome = outcome, .for_thread = !for_group };
	bool of_others = filtered_out(pid_tgid);
	struct signals_draft *draft;

	if (of_others && !with_kernels)
		return 0;
	put_task(&target, task, typed);
	if (wanted_tpid && target.pid != wanted_tpid)
		return 0;
	if (is_of_call(info, &target)) {
		if (!of_others)
			bpf_map_update_elem(&targets, &tid, &target, BPF_ANY);
		return 0;
	}
	if (!with_kernels || failed_only || kill_only || signal_filtered_out(sig))
		return 0;
	/* A timer interrupts any task, so what counts is whom the signal is for as well. */
	if (of_others && task_filtered_out(task))
		return 0;
	draft = reserve(signals);
	if (!draft)
		return 0;

	struct signal *signal = &draft->record;

	put_current_task(signal, pid_tgid);
	signal->signal = sig;
	signal->call = EV_NO_NAME;
	signal->tpid = target.pid;
	signal->ttid = for_group ? EV_NO_NUMBER : target.tid;
	signal->outcome = outcome;
	signal->ret = EV_NO_RESULT;
	signal->code = CODE(sig, code_of(info));
	signal->value = EV_NO_NUMBER;
	put_kernel_string(draft, &signal->tcomm, target.comm);
	put_stacks(draft, ctx);
	submit(signals, draft);
	return 0;
}

ON_TRACEPOINT(signal_generate, generate, ,
	      generated(ctx, sig, info, task, for_group, result, typed), int sig,
	      struct kernel_siginfo *info, struct task_struct *task, int for_group, int result)

static __always_inline struct asked read_call(const struct syscall *call)
{
	const __u64 *args = call->args;
	struct asked asked = { .pid = (__s32)args[0] };
	__u8 kind = call->kind;

	if (kind == BY_TGKILL || kind == BY_THREAD_QUEUE) {
		asked.tid = args[1];
		asked.signal = args[2];
	} else {
		asked.tid = kind == BY_TKILL ? args[0] : 0;
		asked.signal = args[1];
	}
	if (kind >= BY_QUEUE)
		asked.info = (void *)args[kind == BY_THREAD_QUEUE ? 3 : 2];
	if (kind == BY_PIDFD)
		asked.for_group = args[3] & PIDFD_SIGNAL_PROCESS_GROUP;
	else
		asked.for_group = kind == BY_KILL && asked.pid <= 0;
	return asked;
}

/* What the call has named: a process, a thread or a process group. NULL for none, or for all. */
static __always_inline struct pid *named_pid(const struct asked *asked, const struct syscall *call,
					     __s64 result)
{
	/* With these errors it is not certain that the kernel knows descriptors for the caller. */
	bool may_be_self = result != -EBADF && result != -EINVAL;
	struct pid *self;

	if (call->kind == BY_PIDFD) {
		self = may_be_self ? pid_of_self(asked->pid) : NULL;
		return self ?: pid_of_fd(asked->pid);
	}
	if (asked->for_group && !asked->pid)
		return group_of_task((void *)bpf_get_current_task());
	return find_pid(asked->tid ?: asked->pid < 0 ? -asked->pid : asked->pid);
}

/* True if a certain thread is meant by a pidfd. */
static __always_inline bool is_for_thread(int pidfd, __u64 flags)
{
	return flags & PIDFD_SIGNAL_THREAD || (!flags && pidfd == PIDFD_SELF_THREAD);
}

/* Translate what the call has named to the host's numbers, and find the task. */
static __always_inline void look_up(struct asked *asked, struct target *ret, struct pid *pid,
				    const struct syscall *call)
{
	bool by_fd = call->kind == BY_PIDFD;
	struct task_struct *task = task_of_pid(pid);
	__u32 number;

	if (by_fd)
		asked->pid = EV_NO_NUMBER;
	if (!pid)
		return;
	number = number_on_host(pid);
	if (asked->for_group) {
		asked->pid = -(__s64)number;
		return;
	}
	/* A thread gets no signal if it is not of the process that was named. */
	if ((call->kind == BY_TGKILL || call->kind == BY_THREAD_QUEUE) &&
	    number_on_host(find_pid(asked->pid)) != BPF_CORE_READ(task, tgid))
		return;
	if (task)
		put_task(ret, task, false);
	if (asked->tid || (by_fd && is_for_thread(call->args[0], call->args[3])))
		asked->tid = number;
	asked->pid = task ? ret->pid : number;
}

/* True if kill(-1) means the process: neither the caller nor the first one of its namespace. */
static __always_inline bool is_of_all(struct pid *pid)
{
	return number_here(pid) > 1 && number_on_host(pid) != bpf_get_current_pid_tgid() >> 32;
}

/* True if the process that --tpid has named is meant as one of the group, or of all processes. */
static __always_inline bool is_wanted_meant(const struct asked *asked, struct pid *group,
					    const struct syscall *call, __s64 result)
{
	struct pid *pid = find_pid_on_host(wanted_tpid);
	struct task_struct *wanted = task_of_pid(pid);
	bool was_sent = asked->signal && !result;

	if (!asked->for_group || !wanted)
		return false;
	/* What was sent to all, but not to this one, is none of its signals. */
	if (call->kind == BY_KILL && asked->pid == -1)
		return !was_sent && is_of_all(pid);
	return group && group_of_task(wanted) == group;
}

/* Tell what was sent to, as well as it can be known. Returns whether that is wanted. */
static __always_inline bool find_target(struct asked *asked, struct target *ret,
					const struct syscall *call, __s64 result)
{
	__u32 tid = bpf_get_current_pid_tgid();
	struct target *sent = bpf_map_lookup_elem(&targets, &tid);
	bool is_own_or_all = call->kind == BY_KILL && (asked->pid == 0 || asked->pid == -1);
	struct pid *named;
	bool wanted;

	ret->outcome = EV_NO_NAME;
	if (sent && asked->signal && (!result || result == -EAGAIN))
		*ret = *sent;
	if (sent)
		bpf_map_delete_elem(&targets, &tid);
	if (ret->pid && !asked->for_group) {
		asked->pid = ret->pid;
		asked->tid = ret->for_thread ? ret->tid : 0;
		return !wanted_tpid || ret->pid == wanted_tpid;
	}
	named = named_pid(asked, call, result);
	wanted = !wanted_tpid || is_wanted_meant(asked, named, call, result);
	if (!is_own_or_all)
		look_up(asked, ret, named, call);
	return wanted || ret->pid == wanted_tpid;
}

/* The si_code and si_value of a struct siginfo of the caller. */
static __always_inline void put_queued(struct signal *ret, const struct asked *asked, bool compat)
{
	struct {
		__s32 signo, error, code, padding;
		__s32 pid, uid;
		__s64 value;
	} info = {};

	if (bpf_probe_read_user(&info, sizeof(info), asked->info)) {
		ret->code = EV_NO_CODE;
		return;
	}
	ret->code = CODE(asked->signal, info.code);
	/* In that of 32-bit programs there is no padding, and the value has 32 bits. */
	ret->value = compat ? info.uid : info.value;
}

static __always_inline int called(void *ctx, const struct syscall *call, __s64 ret)
{
	__u64 pid_tgid = bpf_get_current_pid_tgid();
	struct asked asked = read_call(call);
	__u8 kind = call->kind;
	struct signals_draft *draft;
	struct target target = {};

	/* What was sent must be forgotten before other filters are applied. */
	if (filtered_out(pid_tgid) || !find_target(&asked, &target, call, ret) ||
	    (failed_only && ret >= 0) || (kill_only && kind != BY_KILL) ||
	    signal_filtered_out(asked.signal))
		return 0;
	draft = reserve(signals);
	if (!draft)
		return 0;

	struct signal *signal = &draft->record;

	put_current_task(signal, pid_tgid);
	signal->signal = asked.signal;
	signal->call = syscall_of(call);
	signal->outcome = asked.for_group ? EV_NO_NAME : target.outcome;
	signal->tpid = asked.pid;
	signal->ttid = asked.tid ?: EV_NO_NUMBER;
	signal->ret = ret;
	signal->code = CODE(asked.signal, kind == BY_TKILL || kind == BY_TGKILL ? SI_TKILL : SI_USER);
	signal->value = EV_NO_NUMBER;
	if (asked.info || kind == BY_QUEUE || kind == BY_THREAD_QUEUE)
		put_queued(signal, &asked, call->compat);
	no_part(&signal->tcomm);
	if (target.pid && !asked.for_group)
		put_kernel_string(draft, &signal->tcomm, target.comm);
	put_stacks(draft, ctx);
	submit(signals, draft);
	return 0;
}

ON_SYSCALL_EXIT(call, is_signal_call, called)
