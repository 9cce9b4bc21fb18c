/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The memory cgroups of a task, and names of cgroups. */
#ifndef DRIFT_MEMCG_BPF_H
#define DRIFT_MEMCG_BPF_H

#include "record.bpf.h"

#define CGROUP_DEPTH 16
#define NO_LIMIT (1ul << 40) /* pages; cgroups without a limit have a greater one */

/*
 * Linux commit 633488947ef6 ("kernfs: Use RCU to access kernfs_node::parent.") (in v6.15) renamed
 * parent.
 */
struct kernfs_node___since_6_15 {
	struct kernfs_node *__parent;
} __attribute__((preserve_access_index));

static __always_inline struct kernfs_node *kernfs_parent(struct kernfs_node *node)
{
	struct kernfs_node___since_6_15 *new = (void *)node;

	if (bpf_core_field_exists(new->__parent))
		return BPF_CORE_READ(new, __parent);
	return BPF_CORE_READ(node, parent);
}

/* The state of a task's memory cgroup; NULL if the kernel has no such cgroups. */
static __always_inline struct cgroup_subsys_state *memory_state(struct task_struct *task)
{
	struct cgroup_subsys_state *state = NULL;
	struct css_set *set;

	if (!bpf_core_enum_value_exists(enum cgroup_subsys_id, memory_cgrp_id))
		return NULL;
	set = BPF_CORE_READ(task, cgroups);
	bpf_probe_read_kernel(&state, sizeof(state),
			      (void *)set + bpf_core_field_offset(set->subsys) +
				      bpf_core_enum_value(enum cgroup_subsys_id, memory_cgrp_id) *
					      sizeof(state));
	return state;
}

/* The cgroup, of a task's and those above it, that is closest to its limit, in pages. */
struct memory_limit {
	__u64 limit; /* 0 if none of them has a limit */
	__s64 used;
	bool killed_whole; /* memory.oom.group is set of that cgroup, or between it and the task */
};

static __always_inline struct memory_limit memory_limit_of(struct cgroup_subsys_state *state)
{
	struct memory_limit ret = {};
	bool killed_whole = false;

	for (int i = 0; i < CGROUP_DEPTH && state; i++) {
		struct mem_cgroup *memory = container_of(state, struct mem_cgroup, css);
		__u64 limit = BPF_CORE_READ(memory, memory.max);
		__s64 used = BPF_CORE_READ(memory, memory.usage.counter);

		killed_whole |= BPF_CORE_READ(memory, oom_group);
		if (limit < NO_LIMIT && (!ret.limit || (__s64)limit - used < (__s64)ret.limit - ret.used))
			ret = (struct memory_limit){ limit, used, killed_whole };
		state = BPF_CORE_READ(state, parent);
	}
	if (!ret.limit)
		ret.killed_whole = killed_whole;
	return ret;
}

/*
 * Append the name of a state's cgroup to the tail of a draft, and behind it those of the cgroups
 * that it is in, the deepest first. The root has none.
 */
#define put_cgroup(draft, dir, ret, state)                                                     \
	({                                                                                     \
		struct kernfs_node *__node = BPF_CORE_READ(state, cgroup, kn);                 \
		put_kernel_string(draft, ret, BPF_CORE_READ(__node, name));                    \
		begin_part(draft, dir);                                                        \
		(dir)->state = EV_CUT;                                                         \
		for (int __i = 0; __i < CGROUP_DEPTH; __i++) {                                 \
			__u64 __begin = tail_at(draft);                                        \
			__s64 __got;                                                           \
			__node = kernfs_parent(__node);                                        \
			if (!kernfs_parent(__node)) {                                          \
				(dir)->state = EV_WHOLE;                                       \
				break;                                                         \
			}                                                                      \
			if (__begin >= TAIL_BYTES(draft))                                      \
				break;                                                         \
			__got = bpf_probe_read_kernel_str((draft)->tail + __begin, 256,        \
							  BPF_CORE_READ(__node, name));        \
			if (__got < 0)                                                         \
				break;                                                         \
			(draft)->used = __begin + __got;                                       \
		}                                                                              \
		finish_part(draft, dir);                                                       \
	})

#endif
