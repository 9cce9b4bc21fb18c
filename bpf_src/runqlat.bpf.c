/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "record.bpf.h"
#include "filter.bpf.h"
#include "hist.bpf.h"
#include "pair.bpf.h"
#include "read.bpf.h"

#define TASK_RUNNING 0
#define TASK_DEAD 0x80

const volatile bool per_process;
const volatile bool per_thread;
const volatile bool per_cpu;
const volatile bool per_pidns;
const volatile __s64 filter_cpu = -1;
const volatile __u64 least_ns;

struct wait {
	__u32 pid;
	__u32 tid;
	__u32 cpu;
	__u32 pidns;
	ev_cgroup cgroup;
	ev_comm comm;
};

/*
 * When a task began to wait, 0 while it does not. An entry stays until its task ends, so most
 * changes take no lock.
 */
PAIRS(starts, __u32, __u64, 65536);
HISTOGRAMS(waits, wait, 16384);

/* The filters are for the task that waits, not for the one that wakes it. */
static __always_inline bool wait_filtered_out(struct task_struct *task, __u32 tid, bool typed)
{
	return ids_filtered_out((__u64)READ(typed, task, tgid) << 32 | tid) ||
	       task_traits_filtered_out(task);
}

static __always_inline int woken(struct task_struct *task, bool is_new, bool typed)
{
	__u32 tid = READ(typed, task, pid);
	__u64 *start, now;

	/* A task that is woken before it has left the CPU does not wait. */
	if (typed_task_on_cpu(task, typed) || wait_filtered_out(task, tid, typed))
		return 0;
	now = bpf_ktime_get_ns();
	start = bpf_map_lookup_elem(&starts, &tid);
	if (!start)
		pair_begin(starts, &tid, &now, BPF_ANY);
	else if (!*start || is_new) /* otherwise it was preempted, and waits since then */
		*start = now;
	return 0;
}

static __always_inline void left(struct task_struct *task, bool preempted, bool typed)
{
	__u32 tid = READ(typed, task, pid), state = typed_task_state(task, typed);
	bool waits = preempted || state == TASK_RUNNING;
	__u64 *start, now;

	/* The idle task has the id 0 on every CPU, and waits for nothing. */
	if (!tid || wait_filtered_out(task, tid, typed))
		return;
	if (state & TASK_DEAD) {
		bpf_map_delete_elem(&starts, &tid);
		return;
	}
	now = waits ? bpf_ktime_get_ns() : 0;
	start = bpf_map_lookup_elem(&starts, &tid);
	if (start)
		*start = now;
	else if (waits)
		pair_begin(starts, &tid, &now, BPF_ANY);
}

static __always_inline void came(struct task_struct *task, bool typed)
{
	__u32 tid = READ(typed, task, pid), cpu = bpf_get_smp_processor_id();
	__u64 *start = bpf_map_lookup_elem(&starts, &tid), lasted;
	struct wait wait = {};

	if (!start || !*start)
		return;
	lasted = bpf_ktime_get_ns() - *start;
	*start = 0;
	if (lasted < least_ns || (filter_cpu >= 0 && cpu != filter_cpu))
		return;
	wait.cgroup = cgroup_of_task(task);
	if (per_cpu)
		wait.cpu = cpu;
	if (per_pidns)
		wait.pidns = BPF_CORE_READ(task, nsproxy, pid_ns_for_children, ns.inum);
	if (per_process) {
		wait.pid = READ(typed, task, tgid);
		BPF_CORE_READ_STR_INTO(&wait.comm, task, group_leader, comm);
	}
	if (per_thread) {
		wait.tid = tid;
		BPF_CORE_READ_STR_INTO(&wait.comm, task, comm);
	}
	hist_add(waits, &wait, lasted);
}

static __always_inline int switched(bool preempted, struct task_struct *prev,
				    struct task_struct *next, bool typed)
{
	left(prev, preempted, typed);
	came(next, typed);
	return 0;
}

ON_TRACEPOINT(sched_switch, wait, __switch, switched(preempt, prev, next, typed),
	      bool preempt, struct task_struct *prev, struct task_struct *next)

ON_TRACEPOINT(sched_wakeup, wait, __wakeup, woken(task, false, typed), struct task_struct *task)
ON_TRACEPOINT(sched_wakeup_new, wait, __new, woken(task, true, typed), struct task_struct *task)
