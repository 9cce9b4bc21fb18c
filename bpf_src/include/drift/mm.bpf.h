/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The areas of an address space, as they were and are kept. */
#ifndef DRIFT_MM_BPF_H
#define DRIFT_MM_BPF_H

#include "record.bpf.h"

/*
 * Linux commits d4af56c5c7c6 ("mm: start tracking VMAs with maple tree") and 524e00b36e8c ("mm:
 * remove rb tree.") (in v6.1) put another tree in the place of these.
 */
struct mm_struct___before_6_1 {
	struct rb_root mm_rb;
} __attribute__((preserve_access_index));

struct vm_area_struct___before_6_1 {
	struct rb_node vm_rb;
} __attribute__((preserve_access_index));

#define RB_DEPTH 40 /* twice the logarithm of the number of areas, which is below a million */

static __always_inline struct vm_area_struct *area_in_rb_tree(struct mm_struct *mm, __u64 address)
{
	struct mm_struct___before_6_1 *old = (void *)mm;
	struct rb_node *node = BPF_CORE_READ(old, mm_rb.rb_node);
	struct vm_area_struct *found = NULL;

	for (int i = 0; i < RB_DEPTH && node; i++) {
		struct vm_area_struct *area =
			(void *)node - bpf_core_field_offset(struct vm_area_struct___before_6_1, vm_rb);

		if (BPF_CORE_READ(area, vm_end) <= address) {
			node = BPF_CORE_READ(node, rb_right);
		} else {
			found = area;
			node = BPF_CORE_READ(node, rb_left);
		}
	}
	return found;
}

/*
 * A node of a maple tree has slots, and before each but the last one the pivot up to which, itself
 * included, it reaches. A pivot of 0 behind the first one says that there are no more slots. The
 * low bits of a pointer to a node tell its type.
 */
#define MAPLE_DEPTH 8
#define MAPLE_PIVOTS 15
#define MAPLE_NODE_MASK 0xfful
#define MAPLE_TYPE(entry) ((__u64)(entry) >> 3 & 0xf)
#define IS_MAPLE_ROOT(entry) (((__u64)(entry) & 3) == 2)

static __always_inline struct vm_area_struct *area_in_maple_tree(struct mm_struct *mm,
								 __u64 address)
{
	void *entry = BPF_CORE_READ(mm, mm_mt.ma_root);
	bool found = !IS_MAPLE_ROOT(entry); /* a tree of a single area, or of none */

	for (int depth = 0; depth < MAPLE_DEPTH && !found; depth++) {
		__u32 type = MAPLE_TYPE(entry), at = 0;
		void *node = (void *)((__u64)entry & ~MAPLE_NODE_MASK);
		__u32 pivots = bpf_core_field_offset(struct maple_range_64, pivot);
		__u32 slots = bpf_core_field_offset(struct maple_range_64, slot);
		__u32 last = MAPLE_PIVOTS;

		if (type == maple_arange_64) {
			pivots = bpf_core_field_offset(struct maple_arange_64, pivot);
			slots = bpf_core_field_offset(struct maple_arange_64, slot);
			last = bpf_core_field_size(((struct maple_arange_64 *)0)->pivot) /
			       sizeof(unsigned long);
		}
		for (int i = 0; i < MAPLE_PIVOTS; i++) {
			unsigned long pivot = 0;

			bpf_probe_read_kernel(&pivot, sizeof(pivot),
					      node + pivots + at * sizeof(pivot));
			if (at >= last || pivot >= address || (at && !pivot))
				break;
			at++;
		}
		entry = NULL;
		bpf_probe_read_kernel(&entry, sizeof(entry), node + slots + at * sizeof(entry));
		found = type < maple_range_64; /* a leaf */
	}
	return found ? entry : NULL;
}

/* The area that has an address, if there is one. If there is none, it may be another one. */
static __always_inline struct vm_area_struct *area_at(struct mm_struct *mm, __u64 address)
{
	return bpf_core_field_exists(mm->mm_mt) ? area_in_maple_tree(mm, address) :
						  area_in_rb_tree(mm, address);
}

#endif
