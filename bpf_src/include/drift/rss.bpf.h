/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* How much memory a process has in use, as it was and is counted. */
#ifndef DRIFT_RSS_BPF_H
#define DRIFT_RSS_BPF_H

#include "record.bpf.h"

/* Linux commit f1a7941243c1 ("mm: convert mm's rss stats into percpu_counter") (in v6.2) */
struct mm_rss_stat___before_6_2 {
	atomic_long_t count[NR_MM_COUNTERS];
} __attribute__((preserve_access_index));

struct mm_struct___before_6_2 {
	struct mm_rss_stat___before_6_2 rss_stat;
} __attribute__((preserve_access_index));

struct task_rss_stat___before_6_2 {
	int count[NR_MM_COUNTERS];
} __attribute__((preserve_access_index));

struct task_struct___before_6_2 {
	struct task_rss_stat___before_6_2 rss_stat;
} __attribute__((preserve_access_index));

/*
 * The pages of a kind, such as MM_ANONPAGES. What a CPU has counted and not added to the sum yet is
 * left out, as in the kernel's own messages: up to 32 pages, or twice the number of CPUs. Before
 * v6.2 it is a thread that keeps up to 64 pages to itself: then those of TASK are added.
 */
static __always_inline __s64 pages_of(struct task_struct *task, struct mm_struct *mm, int kind)
{
	struct task_struct___before_6_2 *old_task = (void *)task;
	struct mm_struct___before_6_2 *old_mm = (void *)mm;
	struct percpu_counter *counter;
	__s64 pages;
	int kept = 0;

	if (bpf_core_field_exists(old_mm->rss_stat.count)) {
		bpf_probe_read_kernel(&pages, sizeof(pages),
				      (void *)mm + bpf_core_field_offset(old_mm->rss_stat) +
					      kind * sizeof(pages));
		if (bpf_core_field_exists(old_task->rss_stat))
			bpf_probe_read_kernel(&kept, sizeof(kept),
					      (void *)task +
						      bpf_core_field_offset(old_task->rss_stat.count) +
						      kind * sizeof(kept));
	} else {
		counter = (void *)mm + bpf_core_field_offset(mm->rss_stat) +
			  kind * bpf_core_type_size(struct percpu_counter);
		pages = BPF_CORE_READ(counter, count);
	}
	return pages + kept > 0 ? pages + kept : 0;
}

#endif
