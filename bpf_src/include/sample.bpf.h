/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* --sample-rate N: trace one event in N. This is decided before any map is used. */
#ifndef SAMPLE_BPF_H
#define SAMPLE_BPF_H

#include "record.bpf.h"

const volatile __u32 sample_rate = 1;

/* KEY must be the same at the begin and the end of an operation, so that both decide alike. */
static __always_inline bool sampled_out(__u64 key)
{
	return sample_rate > 1 && (key * 0x9e3779b97f4a7c15ull >> 32) % sample_rate;
}

#endif
