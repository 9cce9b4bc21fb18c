/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Which file is mapped at an address. */
#ifndef VMA_BPF_H
#define VMA_BPF_H

#include "record.bpf.h"
#include "drift/mm.bpf.h"

/* The file that the current task has mapped at an address, or NULL. */
static __always_inline struct file *mapped_file(__u64 address)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct vm_area_struct *area = area_at(BPF_CORE_READ(task, mm), address);

	/* Another thread may have changed the tree meanwhile. */
	if (!area || BPF_CORE_READ(area, vm_start) > address ||
	    BPF_CORE_READ(area, vm_end) <= address)
		return NULL;
	return BPF_CORE_READ(area, vm_file);
}

#endif
