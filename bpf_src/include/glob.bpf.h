/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Match a text against a glob, which user space has compiled to a DFA: each byte takes one look-up
 * in a table. The first state is 0, and the text matches if glob_accepts is set for the last state.
 * Texts longer than GLOB_MOST are passed on, and user space matches them.
 */
#ifndef GLOB_BPF_H
#define GLOB_BPF_H

#include "record.bpf.h"

#define GLOB_STATES 64
#define GLOB_CLASSES 32
#ifndef GLOB_MOST
#define GLOB_MOST 512
#endif

const volatile bool glob_wanted;
const volatile __u8 glob_classes[256];
const volatile __u8 glob_next[GLOB_STATES * GLOB_CLASSES];
const volatile __u8 glob_accepts[GLOB_STATES];

static __always_inline bool glob_filtered_out(const char *text, __u32 length)
{
	__u32 state = 0;

	if (!glob_wanted || length > GLOB_MOST)
		return false;
	for (__u32 i = 0; i < GLOB_MOST; i++) {
		if (i >= length)
			break;
		state = state * GLOB_CLASSES + (glob_classes[(__u8)text[i]] & (GLOB_CLASSES - 1));
		/* Keep the mask below: the verifier cannot bound an OR of two variables. */
		barrier_var(state);
		state = glob_next[state & (GLOB_STATES * GLOB_CLASSES - 1)] & (GLOB_STATES - 1);
	}
	return !glob_accepts[state];
}

#endif
