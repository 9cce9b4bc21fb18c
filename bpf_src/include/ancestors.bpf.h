/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Who started the current process, and who started that one. */
#ifndef ANCESTORS_BPF_H
#define ANCESTORS_BPF_H

#include "record.bpf.h"

#define TREE_MOST 8

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
