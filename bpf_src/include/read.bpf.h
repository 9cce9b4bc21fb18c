/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* One source for two rungs: tp_btf with direct loads, and raw_tp with probe reads. */
#ifndef READ_BPF_H
#define READ_BPF_H

#include "record.bpf.h"

/*
 * A member of the struct that FROM points to. TYPED is a constant after inlining, and true if the
 * verifier knows the pointer. Direct loads are cheaper, and lockdown=confidentiality allows them.
 */
#define READ(typed, from, member) ((typed) ? (from)->member : BPF_CORE_READ(from, member))
#define READ_BITS(typed, from, member)                                                         \
	((typed) ? BPF_CORE_READ_BITFIELD(from, member) :                                      \
		   BPF_CORE_READ_BITFIELD_PROBED(from, member))

#define __ON_TRACEPOINT(point, ladder, suffix, repeats, call, args...)                         \
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
 * The rungs LADDER__tp_btf and LADDER__raw_tp, both followed by SUFFIX. They return CALL, which is
 * an expression of the tracepoint's arguments, ctx and typed.
 */
#define ON_TRACEPOINT(point, ladder, suffix, call, args...)                                    \
	__ON_TRACEPOINT(point, ladder, suffix, false, call, ##args)

/*
 * The same with two stand-ins for each program: CALL may be made three times for one event. If
 * again is true, it must not do anything that has been done already. Since Linux commit
 * a46023d5616e ("tracing: Guard __DECLARE_TRACE() use of __DO_TRACE_CALL() with SRCU-fast") (in
 * v7.0) a program can be preempted, and is then skipped for all other tasks of its CPU until it
 * goes on. Only on such kernels the session attaches the stand-ins. If there is a variable
 * LADDER_by_stand_in, it counts how often a stand-in did what the first program had not done.
 */
#define ON_TRACEPOINT_THRICE(point, ladder, suffix, call, args...)                             \
	__ON_TRACEPOINT(point, ladder, suffix, false, call, ##args)                            \
	__ON_TRACEPOINT(point, ladder, suffix##__2, true, call, ##args)                        \
	__ON_TRACEPOINT(point, ladder, suffix##__3, true, call, ##args)

#endif
