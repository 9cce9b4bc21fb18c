/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "record.bpf.h"
#include "count.bpf.h"
#include "filter.bpf.h"
#include "hist.bpf.h"
#include "pair.bpf.h"
#include "read.bpf.h"
#include "syscall.bpf.h"

#define KNOWN_MOST 2048 /* above every ev_syscall that has a name */
#define X32 (1u << 31)

const volatile bool without_syscall;
const volatile bool per_process;
const volatile bool per_error;
const volatile bool failed_only;
const volatile __u32 wanted_error;
const volatile __u32 wanted_ppid;
const volatile bool some_wanted;
const volatile __u64 wanted[KNOWN_MOST / 64]; /* a bit for each ev_syscall */
const volatile bool timed;
const volatile bool as_histogram;

struct call {
	__u32 pid;
	ev_syscall syscall;
	ev_ret error;
	ev_cgroup cgroup;
	ev_comm comm;
};

struct calls {
	ev_count count;
	ev_duration lasted;
};

TOP(calls, call, calls, 16384);
COUNTS(calls_only, calls, KNOWN_MOST); /* used if calls are told apart by nothing else */

struct latency {
	ev_cgroup cgroup;
	ev_syscall syscall;
	__u32 _padding;
};

HISTOGRAMS(latencies, latency, 16384);

struct start {
	__u64 time;
	ev_syscall syscall;
};

/*
 * By thread. An entry stays until the thread ends, so most changes take no lock. The time is 0
 * while the thread is in no call.
 */
PAIRS(starts, __u32, struct start, 16384);

static __always_inline bool caller_filtered_out(void)
{
	struct task_struct *task = (void *)bpf_get_current_task();

	return filtered_out(bpf_get_current_pid_tgid()) ||
	       (wanted_ppid && BPF_CORE_READ(task, real_parent, tgid) != wanted_ppid);
}

static __always_inline bool syscall_filtered_out(ev_syscall syscall)
{
	__u32 bit = syscall & ~X32;

	return some_wanted &&
	       (bit >= KNOWN_MOST || !(wanted[bit / 64 % (KNOWN_MOST / 64)] >> bit % 64 & 1));
}

static __always_inline struct calls *count_call(ev_syscall syscall, __s64 error)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct call call = { .cgroup = current_cgroup() };
	struct calls *sums = NULL;

	if (!without_syscall && !per_error && !per_process && !with_cgroup)
		sums = counts_of(calls_only, syscall);
	if (!without_syscall)
		call.syscall = syscall;
	if (per_error)
		call.error = error;
	if (per_process) {
		call.pid = bpf_get_current_pid_tgid() >> 32;
		BPF_CORE_READ_STR_INTO(&call.comm, task, group_leader, comm);
	}
	if (!sums)
		sums = top_of(calls, &call);
	if (sums)
		add(sums->count, 1);
	return sums;
}

/* Calls are counted when they are made, because some never return, and some lose their number. */
static __always_inline int entered(struct pt_regs *regs, __u64 number, bool typed)
{
	ev_syscall syscall = this_syscall(regs, number, typed);
	__u32 tid = bpf_get_current_pid_tgid();
	struct start start = { .syscall = syscall }, *known;

	if (caller_filtered_out() || syscall_filtered_out(syscall))
		return 0;
	if (!timed) {
		count_call(syscall, 0);
		return 0;
	}
	start.time = bpf_ktime_get_ns();
	known = bpf_map_lookup_elem(&starts, &tid);
	if (known)
		*known = start;
	else
		pair_begin(starts, &tid, &start, BPF_ANY);
	return 0;
}

/*
 * When a task returns from a signal handler, it has the number -1 and the result of the call that
 * the signal interrupted. syscall(-1) has the same number, and fails with ENOSYS.
 */
static __always_inline bool has_failed(__s32 number, __s64 ret)
{
	return number == -1 ? ret == -ENOSYS : ret < 0 && ret >= -4095;
}

static __always_inline int returned(struct pt_regs *regs, __s32 number, __s64 ret, bool typed)
{
	bool failed = has_failed(number, ret);
	__u32 tid = bpf_get_current_pid_tgid();
	__u64 now = timed ? bpf_ktime_get_ns() : 0;
	struct start start = {}, *known;
	struct calls *sums;

	if (timed) {
		known = bpf_map_lookup_elem(&starts, &tid);
		if (!known || !known->time)
			return 0;
		start = *known;
		known->time = 0;
	} else {
		start.syscall = this_syscall(regs, number, typed);
		if (caller_filtered_out() || syscall_filtered_out(start.syscall))
			return 0;
	}
	if ((failed_only || wanted_error) && !failed)
		return 0;
	if (wanted_error && -ret != wanted_error)
		return 0;
	if (as_histogram) {
		struct latency latency = {};

		latency.cgroup = current_cgroup();
		latency.syscall = start.syscall;
		hist_add(latencies, &latency, now - start.time);
		return 0;
	}
	sums = count_call(start.syscall, failed ? ret : 0);
	if (sums && timed)
		add(sums->lasted, now - start.time);
	return 0;
}

static __always_inline int gone(void)
{
	__u32 tid = bpf_get_current_pid_tgid();

	bpf_map_delete_elem(&starts, &tid);
	return 0;
}

/* A thread that runs another program gets the number of its process, within execve(). */
static __always_inline int renamed(__u32 old_tid)
{
	__u32 tid = bpf_get_current_pid_tgid();
	struct start start;

	if (old_tid != tid && pair_end(starts, &old_tid, &start))
		pair_begin(starts, &tid, &start, BPF_ANY);
	return 0;
}

ON_TRACEPOINT(sched_process_exit, gone, , gone())
ON_TRACEPOINT(sched_process_exec, gone, __exec, renamed(old_tid), struct task_struct *task,
	      int old_tid)

/* Programs are attached in this order. The ends come first, so that no begin lacks its end. */

SEC("tp_btf/sys_exit")
int BPF_PROG(exit__tp_btf, struct pt_regs *regs, long ret)
{
	return returned(regs, __syscall_number(regs, READ_DIRECTLY), ret, true);
}

SEC("raw_tp/sys_exit")
int BPF_PROG(exit__raw_tp, struct pt_regs *regs, long ret)
{
	return returned(regs, __syscall_number(regs, READ_BY_PROBE), ret, false);
}

SEC("tp_btf/sys_enter")
int BPF_PROG(enter__tp_btf, struct pt_regs *regs, long number)
{
	return entered(regs, number, true);
}

SEC("raw_tp/sys_enter")
int BPF_PROG(enter__raw_tp, struct pt_regs *regs, long number)
{
	return entered(regs, number, false);
}
