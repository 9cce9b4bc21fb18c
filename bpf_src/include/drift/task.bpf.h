/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* struct task_struct and struct cgroup as they were and are. */
#ifndef DRIFT_TASK_BPF_H
#define DRIFT_TASK_BPF_H

#include "record.bpf.h"
#include "read.bpf.h"

/* Linux commit 2f064a59a11f ("sched: Change task_struct::state") (in v5.14) renamed state. */
struct task_struct___before_5_14 {
	long state;
} __attribute__((preserve_access_index));

static __always_inline __u32 typed_task_state(struct task_struct *task, bool typed)
{
	struct task_struct___before_5_14 *old = (void *)task;

	if (bpf_core_field_exists(task->__state))
		return READ(typed, task, __state);
	return READ(typed, old, state);
}

static __always_inline __u32 task_state(struct task_struct *task)
{
	return typed_task_state(task, false);
}

/* An int before v7.2. */
struct task_struct___since_7_2 {
	__u8 on_cpu;
} __attribute__((preserve_access_index));

static __always_inline bool typed_task_on_cpu(struct task_struct *task, bool typed)
{
	struct task_struct___since_7_2 *new = (void *)task;

	if (bpf_core_field_size(task->on_cpu) == sizeof(new->on_cpu))
		return READ(typed, new, on_cpu);
	return READ(typed, task, on_cpu);
}

/*
 * Linux commit 7f203bc89eb6 ("cgroup: Replace cgroup->ancestor_ids[] with ->ancestors[]")
 * (in v6.1) keeps pointers where the ids were.
 */
struct cgroup___before_6_1 {
	__u64 ancestor_ids[0];
} __attribute__((preserve_access_index));

static __always_inline struct cgroup *task_cgroup(struct task_struct *task)
{
	return BPF_CORE_READ(task, cgroups, dfl_cgrp);
}

static __always_inline __u64 typed_cgroup_id(struct cgroup *cgroup, bool typed)
{
	struct kernfs_node *node = READ(typed, cgroup, kn);

	return READ(typed, node, id);
}

static __always_inline __u64 cgroup_id(struct cgroup *cgroup)
{
	return typed_cgroup_id(cgroup, false);
}

/* The id of a cgroup's ancestor (or itself) at LEVEL, 0 if the cgroup is above that level. */
static __always_inline __u64 cgroup_ancestor_id(struct cgroup *cgroup, __u32 level)
{
	struct cgroup___before_6_1 *old = (void *)cgroup;
	struct cgroup *ancestor = NULL;
	__u64 id = 0;

	if ((__u32)BPF_CORE_READ(cgroup, level) < level)
		return 0;
	if (bpf_core_field_exists(cgroup->ancestors)) {
		bpf_probe_read_kernel(&ancestor, sizeof(ancestor),
				      (void *)cgroup +
					      __builtin_preserve_field_info(cgroup->ancestors, 0) +
					      level * sizeof(ancestor));
		return cgroup_id(ancestor);
	}
	bpf_probe_read_kernel(&id, sizeof(id),
			      (void *)cgroup + __builtin_preserve_field_info(old->ancestor_ids, 0) +
				      level * sizeof(id));
	return id;
}

/* The same of the current task's cgroup. */
static __always_inline __u64 current_ancestor_id(__u32 level, bool typed)
{
	/* A bit older than that helper is Linux commit 95b861a7935b ("bpf: Allow
	 * bpf_get_current_ancestor_cgroup_id for tracing") (in v5.14). */
	if (typed && bpf_core_enum_value_exists(enum bpf_func_id, BPF_FUNC_task_pt_regs))
		return bpf_get_current_ancestor_cgroup_id(level);
	return cgroup_ancestor_id(task_cgroup((void *)bpf_get_current_task()), level);
}

static __always_inline __u32 current_ppid(bool typed)
{
	struct task_struct *task = (void *)bpf_get_current_task();

	/* Linux commit 3ca1032ab7ab ("bpf: Implement get_current_task_btf and RET_PTR_TO_BTF_ID")
	 * (in v5.11) */
	if (typed && bpf_core_enum_value_exists(enum bpf_func_id, BPF_FUNC_get_current_task_btf))
		return bpf_get_current_task_btf()->real_parent->tgid;
	return BPF_CORE_READ(task, real_parent, tgid);
}

/* PF_KTHREAD and the like, of the current task. */
static __always_inline __u32 current_flags(bool typed)
{
	struct task_struct *task = (void *)bpf_get_current_task();

	if (typed && bpf_core_enum_value_exists(enum bpf_func_id, BPF_FUNC_get_current_task_btf))
		return bpf_get_current_task_btf()->flags;
	return BPF_CORE_READ(task, flags);
}

#endif
