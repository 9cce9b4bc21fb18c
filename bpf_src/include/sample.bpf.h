/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* --sample-rate N: keep one event in N, decided before any map is touched. */
#ifndef SAMPLE_BPF_H
#define SAMPLE_BPF_H

#include "record.bpf.h"

const volatile __u32 sample_rate = 1;

/* KEY is the same at both ends of an operation, so that both ends decide alike. */
static __always_inline bool sampled_out(__u64 key)
{
	return sample_rate > 1 && (key * 0x9e3779b97f4a7c15ull >> 32) % sample_rate;
}

#endif
