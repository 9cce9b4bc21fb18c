/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Log-linear histograms: each power of two has eight slots, so a value is known within 6.25 %.
 *
 * Slots are in 1/1024 of the unit that is shown. A value is multiplied by hist_scale / 2^20 to get
 * there, so the power-of-two rows of any unit begin exactly at a slot.
 */
#ifndef HIST_BPF_H
#define HIST_BPF_H

#include "record.bpf.h"

#define HIST_SLOTS 496
#define HIST_SUM HIST_SLOTS /* the slot in which the values themselves are added up */

struct hist {
	__u64 slots[HIST_SLOTS + 1];
};

const volatile __u64 hist_scale = 1 << 20;
const volatile bool hist_by_key;  /* there is a histogram for each key: use the map NAME_by */
const volatile bool hist_summed; /* add the values up as well */

/*
 * HISTOGRAMS(waits, wait_key, 16384) declares a per-CPU array for a histogram of all events, a hash
 * map for histograms by key, and waits_lost, the number of events for which that map was full.
 */
#define HISTOGRAMS(name, key_type, entries)                                                    \
	struct name##_slot {                                                                   \
		struct key_type key;                                                           \
		__u32 slot;                                                                    \
	};                                                                                     \
	struct {                                                                               \
		__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);                                       \
		__uint(max_entries, 1);                                                        \
		__type(key, __u32);                                                            \
		__type(value, struct hist);                                                    \
	} name SEC(".maps");                                                                   \
	struct {                                                                               \
		__uint(type, BPF_MAP_TYPE_HASH);                                               \
		__uint(max_entries, entries);                                                  \
		__type(key, struct name##_slot);                                               \
		__type(value, __u64);                                                          \
	} name##_by SEC(".maps");                                                              \
	__u64 name##_lost;                                                                     \
	static __always_inline bool name##_raise(const struct name##_slot *at, __u64 amount)   \
	{                                                                                      \
		__u64 *count = bpf_map_lookup_elem(&name##_by, at);                            \
		if (!count) {                                                                  \
			bpf_map_update_elem(&name##_by, at, &(__u64){ 0 }, BPF_NOEXIST);       \
			count = bpf_map_lookup_elem(&name##_by, at);                           \
		}                                                                              \
		if (count)                                                                     \
			__sync_fetch_and_add(count, amount);                                   \
		return count;                                                                  \
	}                                                                                      \
	static __always_inline void name##_add(const struct key_type *key, __u64 value)        \
	{                                                                                      \
		__u32 slot;                                                                    \
		/* Clocks of two CPUs may differ a little: if an event seems to end before it  \
		 * began, it took no time. */                                                  \
		if (value >> 63)                                                               \
			value = 0;                                                             \
		slot = hist_slot(value);                                                       \
		if (!hist_by_key) {                                                            \
			struct hist *hist = bpf_map_lookup_elem(&name, &(__u32){ 0 });         \
			if (!hist || slot >= HIST_SLOTS)                                       \
				return;                                                        \
			__sync_fetch_and_add(&hist->slots[slot], 1);                           \
			if (hist_summed)                                                       \
				__sync_fetch_and_add(&hist->slots[HIST_SUM], value);           \
			return;                                                                \
		}                                                                              \
		struct name##_slot at, sum;                                                    \
		__builtin_memset(&at, 0, sizeof(at));                                          \
		at.key = *key;                                                                 \
		at.slot = slot;                                                                \
		sum = at;                                                                      \
		sum.slot = HIST_SUM;                                                           \
		if (!hist_summed || name##_raise(&sum, value)) {                               \
			if (name##_raise(&at, 1))                                              \
				return;                                                        \
			if (hist_summed)                                                       \
				name##_raise(&sum, -value);                                    \
		}                                                                              \
		__sync_fetch_and_add(&name##_lost, 1);                                         \
	}

#define hist_add(name, key, value) name##_add(key, value)

static __always_inline __u32 log2_of(__u64 value)
{
	__u32 power = 0;

#pragma unroll
	for (int bits = 32; bits; bits >>= 1) {
		if (value >> bits) {
			value >>= bits;
			power += bits;
		}
	}
	return power;
}

static __always_inline __u32 hist_slot(__u64 value)
{
	/* Beyond 2^43 (two hours in ns) the product would overflow; precision is no issue there. */
	value = value >> 43 ? (value >> 20) * hist_scale : (value * hist_scale) >> 20;
	if (value < 16)
		return value;

	__u32 power = log2_of(value);

	return (power - 2) * 8 + ((value >> (power - 3)) & 7);
}

#endif
