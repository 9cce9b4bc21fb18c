/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "record.bpf.h"
#include "count.bpf.h"
#include "filter.bpf.h"
#include "read.bpf.h"

const volatile bool per_parent;

struct births {
	ev_count pids, threads, execs;
};

ROW(births, births, 4096);

struct parent {
	ev_cgroup cgroup;
	__u32 pid;
	__u32 _padding;
	ev_comm comm;
};

TOP(parents, parent, births, 4096);

/* The task that forks or executes is the current one. */
static __always_inline struct births *births_of_current(void)
{
	__u64 pid_tgid = bpf_get_current_pid_tgid();
	struct parent parent = {};

	if (filtered_out(pid_tgid))
		return NULL;
	if (!per_parent)
		return row_of(births, current_cgroup());
	parent.pid = pid_tgid >> 32;
	parent.cgroup = current_cgroup();
	bpf_get_current_comm(parent.comm, sizeof(parent.comm));
	return top_of(parents, &parent);
}

static __always_inline int born(struct task_struct *child, bool typed)
{
	bool is_thread = READ(typed, child, pid) != READ(typed, child, tgid);
	struct births *births = births_of_current();

	if (births && is_thread)
		add(births->threads, 1);
	else if (births)
		add(births->pids, 1);
	return 0;
}

static __always_inline int executed(void)
{
	struct births *births = births_of_current();

	if (births)
		add(births->execs, 1);
	return 0;
}

ON_TRACEPOINT(sched_process_fork, birth, __fork, born(child, typed),
	      struct task_struct *parent, struct task_struct *child)

ON_TRACEPOINT(sched_process_exec, birth, __exec, executed())
