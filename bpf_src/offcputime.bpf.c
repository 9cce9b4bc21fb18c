/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "record.bpf.h"
#include "filter.bpf.h"
#include "pair.bpf.h"
#include "read.bpf.h"
#include "stacks.bpf.h"

#define TASK_RUNNING 0
#define TASK_DEAD 0x80
#define PF_KTHREAD 0x00200000

const volatile bool kernel_stacks = true;
const volatile bool user_stacks;
const volatile bool per_thread;
const volatile bool user_threads_only;
const volatile bool kernel_threads_only;
const volatile __s64 wanted_states = -1; /* a mask; 0 selects tasks that could have run on */
const volatile __u64 least_ns;
const volatile __u64 most_ns = __UINT64_MAX__;

struct sleep {
	__u32 pid;
	__u32 tid;
	__u64 kernel_stack;
	__u64 user_stack;
	ev_cgroup cgroup;
	ev_comm comm;
};

/* When a task left its CPU, 0 while it runs. An entry stays until the task ends. */
struct begin {
	__u64 since;
	struct sleep sleep;
};

STACKS(stacks, 16384);
SUMS(sleeps, sleep, 32768);
PAIRS(begins, __u32, struct begin, 65536);
__u64 unseen_lost; /* sleeps that ended without a run of the program */

/*
 * Linux commit fa2c3254d7cf ("sched/tracing: Don't re-read p->state when emitting sched_switch
 * event") (in v5.18) hands over the state, because a wake-up may already have changed the task's.
 */
const volatile __u32 argc_sched_switch;

static __always_inline __u32 left_state(const unsigned long long *ctx, struct task_struct *task,
					bool typed)
{
	if (argc_sched_switch > 3)
		return ctx[3];
	return typed_task_state(task, typed);
}

static __always_inline bool state_filtered_out(__u32 state)
{
	return wanted_states ? !(state & wanted_states) : state != TASK_RUNNING;
}

/* The task that leaves is still the current one. */
static __always_inline void left(unsigned long long *ctx, bool preempted, struct task_struct *task,
				 __u64 now, bool typed)
{
	__u64 pid_tgid = bpf_get_current_pid_tgid();
	__u32 tid = pid_tgid, state = left_state(ctx, task, typed);
	bool is_kernel_thread;
	struct begin *begin;

	/* The idle task has the id 0 on every CPU. It runs when there is nothing else to do. */
	if (!tid)
		return;
	if (state & TASK_DEAD) {
		bpf_map_delete_elem(&begins, &tid);
		return;
	}
	if (filtered_out(pid_tgid))
		return;
	/* A preempted task could have run on, even if its state says that it was about to sleep. */
	if (wanted_states >= 0 && state_filtered_out(preempted ? TASK_RUNNING : state))
		return;
	is_kernel_thread = READ(typed, task, flags) & PF_KTHREAD;
	if (is_kernel_thread ? user_threads_only : kernel_threads_only)
		return;
	begin = bpf_map_lookup_elem(&begins, &tid);
	if (!begin) {
		struct begin fresh = {};

		pair_begin(begins, &tid, &fresh, BPF_NOEXIST);
		begin = bpf_map_lookup_elem(&begins, &tid);
		if (!begin)
			return;
	}
	/*
	 * The task has come back without a run of the program, which was seen on a virtual machine
	 * with 6.18. Its sleep was not longer than until now: if even that is too short to be
	 * wanted, nothing is lost.
	 */
	if (begin->since && now - begin->since >= least_ns)
		__sync_fetch_and_add(&unseen_lost, 1);
	begin->sleep.pid = pid_tgid >> 32;
	begin->sleep.cgroup = current_cgroup();
	if (per_thread)
		begin->sleep.tid = tid;
	bpf_get_current_comm(begin->sleep.comm, sizeof(begin->sleep.comm));
	if (kernel_stacks)
		begin->sleep.kernel_stack = keep_stack(stacks, ctx, 0, begin->sleep.kernel_stack);
	if (user_stacks && !is_kernel_thread)
		begin->sleep.user_stack =
			keep_stack(stacks, ctx, BPF_F_USER_STACK, begin->sleep.user_stack);
	begin->since = now;
}

static __always_inline void came(struct task_struct *task, __u64 now, bool typed)
{
	__u32 tid = READ(typed, task, pid);
	struct begin *begin;
	__u64 lasted;

	if (!tid)
		return;
	begin = bpf_map_lookup_elem(&begins, &tid);
	if (!begin || !begin->since)
		return;
	/* Clocks of two CPUs may differ a little. */
	lasted = now > begin->since ? now - begin->since : 0;
	begin->since = 0;
	if (lasted >= least_ns && lasted <= most_ns)
		sum_add(sleeps, &begin->sleep, lasted);
}

static __always_inline int switched(unsigned long long *ctx, bool preempted,
				    struct task_struct *prev, struct task_struct *next, bool typed)
{
	__u64 now = bpf_ktime_get_ns();

	left(ctx, preempted, prev, now, typed);
	came(next, now, typed);
	return 0;
}

ON_TRACEPOINT(sched_switch, sleep, , switched(ctx, preempt, prev, next, typed),
	      bool preempt, struct task_struct *prev, struct task_struct *next)
