/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Sums by stack. Each stack is kept once, under a number that is computed from its frames. Unlike
 * in a BPF_MAP_TYPE_STACK_TRACE, a stack never takes the place of another one.
 */
#ifndef STACKS_BPF_H
#define STACKS_BPF_H

#include "record.bpf.h"

#define STACK_FRAMES 127 /* the default of kernel.perf_event_max_stack */
#define STACK_NONE 0	 /* there is no stack, or it was not asked for */
#define STACK_LOST 1	 /* the stack could not be read or kept */
#define STACK_KEPT (1ull << 63)

struct stack {
	__u64 bytes;
	__u64 frames[STACK_FRAMES]; /* innermost first */
};

struct sum {
	__u64 weight;
	__u64 count;
};

static __always_inline __u64 stack_number(const struct stack *stack)
{
	__u64 hash = stack->bytes;

#pragma clang loop unroll(disable)
	for (__u64 i = 0; i < STACK_FRAMES; i++) {
		__u64 bytes = stack->bytes;

		/* Without it the loop gets a bound that the verifier does not know. */
		barrier_var(bytes);
		if (i * 8 >= bytes)
			break;
		hash = (hash ^ stack->frames[i]) * 0x9e3779b97f4a7c15ull;
		hash ^= hash >> 29;
	}
	return hash | STACK_KEPT;
}

/* STACKS(stacks, 16384) declares the map stacks, of up to 16384 stacks by their numbers. */
#define STACKS(name, entries)                                                                  \
	struct {                                                                               \
		__uint(type, BPF_MAP_TYPE_HASH);                                               \
		__uint(max_entries, entries);                                                  \
		__type(key, __u64);                                                            \
		__type(value, struct stack);                                                   \
	} name SEC(".maps");                                                                   \
	struct {                                                                               \
		__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);                                       \
		__uint(max_entries, 1);                                                        \
		__type(key, __u32);                                                            \
		__type(value, struct stack);                                                   \
	} name##_draft SEC(".maps");                                                           \
	static __always_inline __u64 name##_keep(void *ctx, __u64 flags, __u64 known)          \
	{                                                                                      \
		struct stack *draft = bpf_map_lookup_elem(&name##_draft, &(__u32){ 0 });       \
		if (!draft)                                                                    \
			return STACK_LOST;                                                     \
		__s64 bytes = bpf_get_stack(ctx, draft->frames, sizeof(draft->frames), flags); \
		if (bytes <= 0)                                                                \
			return bytes ? STACK_LOST : STACK_NONE;                                \
		draft->bytes = bytes;                                                          \
		__u64 number = stack_number(draft);                                            \
		if (number != known && !bpf_map_lookup_elem(&name, &number) &&                 \
		    bpf_map_update_elem(&name, &number, draft, BPF_ANY))                       \
			return STACK_LOST;                                                     \
		return number;                                                                 \
	}

/*
 * Keep the current stack and return its number, or STACK_NONE or STACK_LOST. FLAGS is 0 for kernel
 * frames and BPF_F_USER_STACK for user frames. KNOWN is a number that was returned before.
 */
#define keep_stack(name, ctx, flags, known) name##_keep(ctx, flags, known)

/*
 * SUMS(sleeps, sleep, 16384) declares the map sleeps of a struct sum for each struct sleep. If it
 * is full, events are counted in sleeps_lost, and their times are added to sleeps_unsummed.
 */
#define SUMS(name, key_type, entries)                                                          \
	struct {                                                                               \
		__uint(type, BPF_MAP_TYPE_HASH);                                               \
		__uint(max_entries, entries);                                                  \
		__type(key, struct key_type);                                                  \
		__type(value, struct sum);                                                     \
	} name SEC(".maps");                                                                   \
	__u64 name##_lost;                                                                     \
	__u64 name##_unsummed;                                                                 \
	static __always_inline void name##_add(const struct key_type *key, __u64 weight)       \
	{                                                                                      \
		struct sum *sum = bpf_map_lookup_elem(&name, key);                             \
		if (!sum) {                                                                    \
			bpf_map_update_elem(&name, key, &(struct sum){}, BPF_NOEXIST);         \
			sum = bpf_map_lookup_elem(&name, key);                                 \
		}                                                                              \
		if (sum) {                                                                     \
			__sync_fetch_and_add(&sum->weight, weight);                            \
			__sync_fetch_and_add(&sum->count, 1);                                  \
		} else {                                                                       \
			__sync_fetch_and_add(&name##_unsummed, weight);                        \
			__sync_fetch_and_add(&name##_lost, 1);                                 \
		}                                                                              \
	}

#define sum_add(name, key, weight) name##_add(key, weight)

#endif
