/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Show an event once, and count the others that are like it. */
#ifndef REPEAT_BPF_H
#define REPEAT_BPF_H

#include "count.bpf.h"
#include "stacks.bpf.h"

const volatile bool with_repeats; /* show all: user space counts events by their stacks */

struct repeat {
	ev_count count;
};

/*
 * REPEATS(repeats, sort, 8192) declares the map repeats, which counts events that are not shown, and
 * a map of the latest 8192 struct sort that were seen. A sort that was not seen for long may be
 * shown again, so that the map is never full. Stream(repeats="repeats") makes the last line tell the
 * number of these events.
 */
#define REPEATS(name, key_type, entries)                                                       \
	COUNTS(name, repeat, 1);                                                               \
	struct {                                                                               \
		__uint(type, BPF_MAP_TYPE_LRU_HASH);                                           \
		__uint(max_entries, entries);                                                  \
		__type(key, struct key_type);                                                  \
		__type(value, __u32);                                                          \
	} name##_seen SEC(".maps");                                                            \
	static __always_inline bool name##_has(const struct key_type *key)                     \
	{                                                                                      \
		struct repeat *repeat;                                                         \
		if (with_repeats)                                                              \
			return false;                                                          \
		if (!bpf_map_lookup_elem(&name##_seen, key)) {                                 \
			int error = bpf_map_update_elem(&name##_seen, key, &(__u32){ 1 },      \
							BPF_NOEXIST);                          \
			/* -EEXIST: another CPU has just shown an event like this one. */      \
			if (error != -17)                                                      \
				return false;                                                  \
		}                                                                              \
		repeat = counts_of(name, 0);                                                   \
		if (repeat)                                                                    \
			add(repeat->count, 1);                                                 \
		return true;                                                                   \
	}                                                                                      \
	static __always_inline void name##_forget(const struct key_type *key)                  \
	{                                                                                      \
		if (!with_repeats)                                                             \
			bpf_map_delete_elem(&name##_seen, key);                                \
	}

/* True if an event of the same sort has been shown. Then this one is counted, not to be shown. */
#define is_repeat(name, sort) name##_has(sort)
/* The event that was to be shown is lost: the next one like it is no repeat. */
#define forget_sort(name, sort) name##_forget(sort)

/* Where the stack is read that current_stack_number() returns the number of. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct stack);
} numbered_stack SEC(".maps");

/* A number that tells the current stack from others, for a struct sort. */
static __always_inline __u64 current_stack_number(void *ctx, __u64 flags)
{
	struct stack *stack = bpf_map_lookup_elem(&numbered_stack, &(__u32){ 0 });
	__s64 bytes;

	if (!stack)
		return STACK_LOST;
	bytes = bpf_get_stack(ctx, stack->frames, sizeof(stack->frames), flags);
	if (bytes <= 0)
		return STACK_NONE;
	stack->bytes = bytes;
	return stack_number(stack);
}

#endif
