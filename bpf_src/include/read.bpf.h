/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* One source for two rungs: loads where the verifier knows the pointer (tp_btf), else probe reads. */
#ifndef READ_BPF_H
#define READ_BPF_H

#include "record.bpf.h"

/*
 * A member of what FROM points to. TYPED is a constant after inlining. Loads are cheaper, and
 * lockdown=confidentiality allows them.
 */
#define READ(typed, from, member) ((typed) ? (from)->member : BPF_CORE_READ(from, member))

/*
 * The rungs LADDER__tp_btf and LADDER__raw_tp, both with SUFFIX behind, that return CALL: an
 * expression of the tracepoint's arguments, of ctx, and of typed.
 */
#define ON_TRACEPOINT(point, ladder, suffix, call, args...)                                    \
	SEC("tp_btf/" #point)                                                                  \
	int BPF_PROG(ladder##__tp_btf##suffix, ##args)                                         \
	{                                                                                      \
		const bool typed __maybe_unused = true;                                        \
		return call;                                                                   \
	}                                                                                      \
	SEC("raw_tp/" #point)                                                                  \
	int BPF_PROG(ladder##__raw_tp##suffix, ##args)                                         \
	{                                                                                      \
		const bool typed __maybe_unused = false;                                       \
		return call;                                                                   \
	}

#endif
