/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Keep a value from the begin of an event until its end. */
#ifndef PAIR_BPF_H
#define PAIR_BPF_H

#include "record.bpf.h"

/* PAIRS(starts, u32, u64, 16384) declares the map starts, and starts_lost: begins without room. */
#define PAIRS(name, key_type, value_type, entries)                                             \
	struct {                                                                               \
		__uint(type, BPF_MAP_TYPE_HASH);                                               \
		__uint(max_entries, entries);                                                  \
		__type(key, key_type);                                                         \
		__type(value, value_type);                                                     \
	} name SEC(".maps");                                                                   \
	__u64 name##_lost;                                                                     \
	static __always_inline void name##_begin(const key_type *key, const value_type *value, \
						 __u64 flags)                                  \
	{                                                                                      \
		/* -EEXIST answers BPF_NOEXIST: the first begin counts. An int: the upper half \
		 * is undefined before Linux commit d7ba4cc900bf ("bpf: return long from       \
		 * bpf_map_ops funcs") (in v6.4). */                                           \
		int error = bpf_map_update_elem(&name, key, value, flags);                     \
		if (error && error != -17)                                                     \
			__sync_fetch_and_add(&name##_lost, 1);                                 \
	}                                                                                      \
	static __always_inline __maybe_unused bool name##_end(const key_type *key,             \
							      value_type *ret)                 \
	{                                                                                      \
		value_type *value = bpf_map_lookup_elem(&name, key);                           \
		if (!value)                                                                    \
			return false;                                                          \
		*ret = *value;                                                                 \
		/* If two programs end it at the same time, only one of them deletes it. */    \
		return !bpf_map_delete_elem(&name, key);                                       \
	}

#define pair_begin(name, key, value, flags) name##_begin(key, value, flags)
/* The same for a stand-in; true if it was kept. The first program has counted a lack of room. */
#define pair_stand_in(name, key, value) (!bpf_map_update_elem(&name, key, value, BPF_NOEXIST))
#define pair_end(name, key, ret) name##_end(key, ret)

#endif
