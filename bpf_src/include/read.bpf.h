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

#define __ON_TRACEPOINT(point, ladder, suffix, repeats, call, args...)                          \
	SEC("tp_btf/" #point)                                                                  \
	int BPF_PROG(ladder##__tp_btf##suffix, ##args)                                         \
	{                                                                                      \
		const bool typed __maybe_unused = true, again __maybe_unused = repeats;        \
		return call;                                                                   \
	}                                                                                      \
	SEC("raw_tp/" #point)                                                                  \
	int BPF_PROG(ladder##__raw_tp##suffix, ##args)                                         \
	{                                                                                      \
		const bool typed __maybe_unused = false, again __maybe_unused = repeats;       \
		return call;                                                                   \
	}

/*
 * The rungs LADDER__tp_btf and LADDER__raw_tp, both with SUFFIX behind, that return CALL: an
 * expression of the tracepoint's arguments, of ctx, and of typed.
 */
#define ON_TRACEPOINT(point, ladder, suffix, call, args...)                                    \
	__ON_TRACEPOINT(point, ladder, suffix, false, call, ##args)

/*
 * The same for a CALL that may be made three times for one event and, where again is true, does
 * nothing that has been done. From Linux commit a46023d5616e ("tracing: Guard __DECLARE_TRACE()
 * use of __DO_TRACE_CALL() with SRCU-fast") (in v7.0) on, a program that is preempted is skipped
 * for all other tasks of its CPU until it goes on: only there the session attaches the stand-ins.
 * A variable LADDER_by_stand_in, where there is one, counts what they have done for want of the first.
 */
#define ON_TRACEPOINT_THRICE(point, ladder, suffix, call, args...)                             \
	__ON_TRACEPOINT(point, ladder, suffix, false, call, ##args)                            \
	__ON_TRACEPOINT(point, ladder, suffix##__2, true, call, ##args)                   \
	__ON_TRACEPOINT(point, ladder, suffix##__3, true, call, ##args)

#endif
