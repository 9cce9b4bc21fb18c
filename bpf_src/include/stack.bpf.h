/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* --stack: the frames of this moment, in the record itself, so that none can collide or be lost. */
#ifndef STACK_BPF_H
#define STACK_BPF_H

#include "record.bpf.h"

const volatile bool with_stack;

/* FLAGS: 0 for the kernel's frames, BPF_F_USER_STACK for the program's. Needs with_stack. */
#define put_stack(draft, ret, ctx, flags)                                                      \
	({                                                                                     \
		begin_part(draft, ret);                                                        \
		if (with_stack) {                                                              \
			/* Addresses are read as u64: begin them on 8 bytes. */                \
			(draft)->used = ((draft)->used + 7) & ~7u;                             \
			(ret)->at = (draft)->used;                                             \
			__u64 __frames = tail_at(draft);                                       \
			__s64 __got = -1;                                                      \
			if (__frames < TAIL_BYTES(draft))                                      \
				__got = bpf_get_stack(ctx, (draft)->tail + __frames, 127 * 8,  \
						      flags);                                  \
			if (__got > 0)                                                         \
				(draft)->used = __frames + __got;                              \
			else                                                                   \
				(ret)->state = EV_UNREADABLE;                                  \
			finish_part(draft, ret);                                               \
		}                                                                              \
	})

#endif
