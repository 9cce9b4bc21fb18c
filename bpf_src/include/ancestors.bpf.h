/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The ancestors of the current process. */
#ifndef ANCESTORS_BPF_H
#define ANCESTORS_BPF_H

#include "record.bpf.h"

#define TREE_MOST 8

const volatile __u32 wanted_ppid;
const volatile __u64 wanted_parent[2]; /* name, 16 bytes, NUL padded */

/* True if the parent, whose id is PPID, is not one that was asked for. */
static __always_inline bool parent_unwanted(__u32 ppid)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	bool stranger = wanted_ppid && ppid != wanted_ppid;
	__u64 comm[2] = {};

	if (stranger || !wanted_parent[0])
		return stranger;
	BPF_CORE_READ_STR_INTO(&comm, task, real_parent, group_leader, comm);
	return comm[0] != wanted_parent[0] || comm[1] != wanted_parent[1];
}

/* Put the names of the ancestors, the oldest first. */
static __always_inline void put_parents(struct tail tail, struct ev_part *ret)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct task_struct *ancestors[TREE_MOST];
	__u32 begin = *tail.used;

#pragma unroll
	for (int i = 0; i < TREE_MOST; i++)
		ancestors[i] = task = BPF_CORE_READ(task, real_parent, group_leader);
#pragma unroll
	for (int i = TREE_MOST - 1; i >= 0; i--) {
		__u64 at = used_of(tail);
		__s64 got = 0;

		if (BPF_CORE_READ(ancestors[i], pid) && at < tail.most) {
			tail.bytes[at] = '>';
			got = bpf_probe_read_kernel_str(tail.bytes + at + 1, COMM_LEN,
							&ancestors[i]->comm);
		}
		if (got > 0)
			*tail.used = at + got;
	}
	if (*tail.used > begin) {
		ret->at = begin + 1;
		ret->state = EV_WHOLE;
		finish_tail_part(tail, ret);
	}
}

#endif
