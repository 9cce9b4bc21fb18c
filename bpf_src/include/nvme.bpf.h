/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Names of NVMe disks. Needs the types of record.bpf.h, and nothing of the kernel. */
#ifndef NVME_BPF_H
#define NVME_BPF_H

#define NVME_DIGITS 5 /* where the digits of "nvme0c1n2" begin */
#define NVME_NAME_MOST 19 /* nvme9999c9999n9999, its NUL included */

static __always_inline __u64 is_letter(__u32 letter, char which)
{
	__u32 difference = letter ^ which;

	barrier_var(difference); /* else clang would make a branch of it */
	return (difference - 1) >> 31;
}

/*
 * An NVMe disk with several paths has a hidden disk for each: nvme0c1n2 is the path to nvme0n2 by
 * controller 1. Users know only the disk, so "c1" is cut out. There are no branches, because the
 * verifier would go on with each of their outcomes, and no variable offsets, because v5.10 allows
 * none in the stack: the letters that stay are pushed into two words, the last one first. Volatile,
 * because the compiler would keep copies of all letters, for which there is no room.
 */
static __always_inline void cut_nvme_path(volatile char *name)
{
	__u64 cut = 0, in_path = 0, begin = 0, rest = 0;

	if (name[0] != 'n' || name[1] != 'v' || name[2] != 'm' || name[3] != 'e')
		return;
#pragma unroll
	for (int i = NVME_DIGITS; i < NVME_NAME_MOST; i++) {
		in_path = (in_path | is_letter(name[i], 'c')) & ~is_letter(name[i], 'n');
		cut |= in_path << i;
	}
#pragma unroll
	for (int i = NVME_NAME_MOST - 1; i >= NVME_DIGITS; i--) {
		__u64 stays = ~(cut >> i) & 1, letter = (__u8)name[i];

		rest = rest << stays * 8 | (begin >> 56) * stays;
		begin = begin << stays * 8 | letter * stays;
	}
#pragma unroll
	for (int i = NVME_DIGITS; i < NVME_NAME_MOST; i++) {
		int at = i - NVME_DIGITS;

		name[i] = at < 8 ? begin >> at * 8 : rest >> (at - 8) * 8;
	}
}

#endif
