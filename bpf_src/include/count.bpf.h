/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Sums: structs whose members are all __u64, one for all events or one for each key. */
#ifndef COUNT_BPF_H
#define COUNT_BPF_H

#include "record.bpf.h"
#include "filter.bpf.h"

/*
 * The addition is atomic, because another program may interrupt this one on its CPU. The barrier
 * hides a constant 0, which clang would turn into an atomic OR: v5.10 only has atomic additions.
 */
#define add(sum, amount)                                                                       \
	({                                                                                     \
		__u64 __amount = (amount);                                                     \
		barrier_var(__amount);                                                         \
		__sync_fetch_and_add(&(sum), __amount);                                        \
		(void)0;                                                                       \
	})

/*
 * Of a member of type ev_longest, which only a TOP without an array may have. If another program
 * interrupts this one on its CPU just here, the shorter of two times may stay.
 */
#define keep_longest(longest, duration)                                                        \
	({                                                                                     \
		__u64 __duration = (duration);                                                 \
		if ((longest) < __duration)                                                    \
			(longest) = __duration;                                                \
		(void)0;                                                                       \
	})

/*
 * COUNTS(calls, sums, 512) declares an array of 512 struct sums for each CPU, of which
 * counts_of(calls, index) finds one. It is used by ROW, and beside TOP for keys that are small
 * numbers.
 */
#define COUNTS(name, kind, entries)                                                            \
	struct {                                                                               \
		__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);                                       \
		__uint(max_entries, entries);                                                  \
		__type(key, __u32);                                                            \
		__type(value, struct kind);                                                    \
	} name SEC(".maps")

#define counts_of(name, index) bpf_map_lookup_elem(&name, &(__u32){ index })

/* The number of the current report. User space increases it before it takes the report away. */
__u32 top_report SEC(".data.report");

/*
 * TOP(calls, call, sums, 16384) declares a map of a struct sums for each struct call and CPU, which
 * top_of(calls, &call) finds, and calls_lost, the number of events for which the map was full.
 * Where the compiler would pad the key, it has a member _padding: bytes without a name may have any
 * value.
 */
#define TOP(name, key_type, kind, entries)                                                     \
	struct name##_at {                                                                     \
		struct key_type key;                                                           \
		__u32 report;                                                                  \
	};                                                                                     \
	struct {                                                                               \
		__uint(type, BPF_MAP_TYPE_PERCPU_HASH);                                        \
		__uint(max_entries, entries);                                                  \
		__type(key, struct name##_at);                                                 \
		__type(value, struct kind);                                                    \
	} name SEC(".maps");                                                                   \
	__u64 name##_lost;                                                                     \
	static __always_inline struct kind *name##_of(const struct key_type *key)              \
	{                                                                                      \
		struct name##_at at;                                                           \
		struct kind *sums;                                                             \
		__builtin_memset(&at, 0, sizeof(at));                                          \
		at.key = *key;                                                                 \
		at.report = *(volatile __u32 *)&top_report;                                    \
		sums = bpf_map_lookup_elem(&name, &at);                                        \
		if (!sums) {                                                                   \
			struct kind none = {};                                                 \
			bpf_map_update_elem(&name, &at, &none, BPF_NOEXIST);                   \
			sums = bpf_map_lookup_elem(&name, &at);                                \
		}                                                                              \
		if (!sums)                                                                     \
			add(name##_lost, 1);                                                   \
		return sums;                                                                   \
	}

#define top_of(name, key) name##_of(key)

struct container {
	ev_cgroup cgroup;
};

/*
 * ROW(calls, sums, 4096) declares one struct sums of all events, and a map calls_by of one for each
 * cgroup, which is used with --per-container. row_of(calls, cgroup) finds the right one.
 */
#define ROW(name, kind, entries)                                                               \
	COUNTS(name, kind, 1);                                                                 \
	TOP(name##_by, container, kind, entries);                                              \
	static __always_inline struct kind *name##_row(__u64 cgroup)                           \
	{                                                                                      \
		struct container container = { cgroup };                                       \
		return with_cgroup ? top_of(name##_by, &container) : counts_of(name, 0);       \
	}

#define row_of(name, cgroup) name##_row(cgroup)

#endif
