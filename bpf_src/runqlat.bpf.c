/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "record.bpf.h"
#include "filter.bpf.h"
#include "hist.bpf.h"
#include "pair.bpf.h"
#include "read.bpf.h"

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
	ev_comm comm;
};

PAIRS(starts, __u32, __u64, 16384);
HISTOGRAMS(waits, wait, 16384);

/* The filters judge the task that waits, here, so that others cost no map work. */
static __always_inline void queued(struct task_struct *task, __u64 flags, bool typed)
{
	__u32 tid = READ(typed, task, pid);
	__u64 now;

	/* The idle task, which every CPU has as 0, waits for nothing. */
	if (!tid || ids_filtered_out((__u64)READ(typed, task, tgid) << 32 | tid) ||
	    task_traits_filtered_out(task))
		return;
	now = bpf_ktime_get_ns();
	pair_begin(starts, &tid, &now, flags);
}

static __always_inline int woken(struct task_struct *task, bool typed)
{
	/* Woken before it left the CPU: it does not wait. Woken while it waits: it waits on. */
	if (!typed_task_on_cpu(task, typed))
		queued(task, BPF_NOEXIST, typed);
	return 0;
}

static __always_inline int switched(bool preempted, struct task_struct *prev,
				    struct task_struct *next, bool typed)
{
	__u32 tid = READ(typed, next, pid);
	struct wait wait = {};
	__u64 start, lasted;

	if (preempted || !typed_task_state(prev, typed))
		queued(prev, BPF_ANY, typed);
	if (!tid || !pair_end(starts, &tid, &start))
		return 0;
	lasted = bpf_ktime_get_ns() - start;
	if (lasted < least_ns || (filter_cpu >= 0 && bpf_get_smp_processor_id() != filter_cpu))
		return 0;
	if (per_cpu)
		wait.cpu = bpf_get_smp_processor_id();
	if (per_pidns)
		wait.pidns = BPF_CORE_READ(next, nsproxy, pid_ns_for_children, ns.inum);
	if (per_process) {
		wait.pid = READ(typed, next, tgid);
		BPF_CORE_READ_STR_INTO(&wait.comm, next, group_leader, comm);
	}
	if (per_thread) {
		wait.tid = tid;
		BPF_CORE_READ_STR_INTO(&wait.comm, next, comm);
	}
	hist_add(waits, &wait, lasted);
	return 0;
}

SEC("tp_btf/sched_switch")
int BPF_PROG(wait__tp_btf__switch, bool preempt, struct task_struct *prev,
	     struct task_struct *next)
{
	return switched(preempt, prev, next, true);
}

SEC("tp_btf/sched_wakeup")
int BPF_PROG(wait__tp_btf__wakeup, struct task_struct *task)
{
	return woken(task, true);
}

SEC("tp_btf/sched_wakeup_new")
int BPF_PROG(wait__tp_btf__new, struct task_struct *task)
{
	return woken(task, true);
}

SEC("raw_tp/sched_switch")
int BPF_PROG(wait__raw_tp__switch, bool preempt, struct task_struct *prev,
	     struct task_struct *next)
{
	return switched(preempt, prev, next, false);
}

SEC("raw_tp/sched_wakeup")
int BPF_PROG(wait__raw_tp__wakeup, struct task_struct *task)
{
	return woken(task, false);
}

SEC("raw_tp/sched_wakeup_new")
int BPF_PROG(wait__raw_tp__new, struct task_struct *task)
{
	return woken(task, false);
}
