/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* --stack: the current frames, in the record itself, so that no stack can be lost. */
#ifndef STACK_BPF_H
#define STACK_BPF_H

#include "record.bpf.h"

const volatile bool with_stack; /* both stacks */
const volatile bool with_kernel_stack; /* set by tools that have an option for each of them */
const volatile bool with_user_stack;

/* FLAGS: 0 for the kernel's frames, BPF_F_USER_STACK for the program's. */
#define stack_wanted(flags)                                                                    \
	(with_stack || ((flags) == BPF_F_USER_STACK ? with_user_stack : with_kernel_stack))

/* The part is empty if the stack is not wanted. */
#define put_stack(draft, ret, ctx, flags)                                                      \
	({                                                                                     \
		begin_part(draft, ret);                                                        \
		if (stack_wanted(flags)) {                                                     \
			/* Align the addresses to 8 bytes, because they are read as u64. */    \
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

#define put_stacks(draft, ctx)                                                                 \
	({                                                                                     \
		put_stack(draft, &(draft)->record.stack, ctx, 0);                              \
		put_stack(draft, &(draft)->record.user_stack, ctx, BPF_F_USER_STACK);          \
	})

/*
 * KEPT_STACKS(stacks, __u64, 1024) keeps stacks for records that are submitted later. The tails of
 * these records must have nothing else in them. A record whose stacks did not fit says so.
 */
#define KEPT_STACKS_BYTES (2 * 127 * 8)
#define KEPT_STACKS(name, key_type, entries)                                                   \
	struct {                                                                               \
		__uint(type, BPF_MAP_TYPE_HASH);                                               \
		__uint(max_entries, entries);                                                  \
		__type(key, key_type);                                                         \
		__type(value, char[KEPT_STACKS_BYTES]);                                        \
	} name SEC(".maps");
#define keep_stacks(name, key, draft, ctx, ret)                                                \
	({                                                                                     \
		(ret)->stack.state = (ret)->user_stack.state = EV_UNREADABLE;                  \
		put_stacks(draft, ctx);                                                        \
		if (!bpf_map_update_elem(&name, key, (draft)->tail, BPF_ANY)) {                \
			(ret)->stack = (draft)->record.stack;                                  \
			(ret)->user_stack = (draft)->record.user_stack;                        \
		}                                                                              \
	})
/* Add the kept stacks to a draft of the record. */
#define put_kept_stacks(name, key, draft)                                                      \
	({                                                                                     \
		char *__kept = bpf_map_lookup_elem(&name, key);                                \
		if (__kept) {                                                                  \
			bpf_probe_read_kernel((draft)->tail, KEPT_STACKS_BYTES, __kept);       \
			bpf_map_delete_elem(&name, key);                                       \
			(draft)->used = (draft)->record.user_stack.at +                        \
					(draft)->record.user_stack.length;                     \
		}                                                                              \
	})

#endif
