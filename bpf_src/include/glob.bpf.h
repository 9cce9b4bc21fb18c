/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Match a text against a glob that user space compiled to a DFA: any pattern, one table look-up a
 * byte, nothing to backtrack. State 0 is the start; the last state that accepts is found in
 * glob_accepts. Texts longer than GLOB_MOST pass: user space finishes the match.
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
		/* Keeps the mask below, for a verifier that follows no OR with a variable. */
		barrier_var(state);
		state = glob_next[state & (GLOB_STATES * GLOB_CLASSES - 1)] & (GLOB_STATES - 1);
	}
	return !glob_accepts[state];
}

#endif
