/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The arguments of a process, one after the other, and a variable of its environment. */
#ifndef ARGS_BPF_H
#define ARGS_BPF_H

#include "record.bpf.h"

#define ARGS_MOST 8192
#define ARGV_MOST 64
#define ENVIRONMENT_MOST 256

const volatile __u32 max_args;
const volatile __u32 variable_length; /* of the text NAME= in variable */
const volatile __u64 variable[4];
const volatile __u64 variable_mask[4];

/*
 * Put the arguments one by one. FROM is an array of pointers of the given size, or if the size is 0
 * the arguments themselves, which end at END.
 */
static __always_inline void put_args_singly(struct tail tail, struct ev_part *ret, __u64 from,
					    __u64 end, __u32 pointer_size)
{
	begin_tail_part(tail, ret, EV_CUT);
	for (__u32 i = 0; i <= ARGV_MOST; i++) {
		__u64 at = used_of(tail);
		__u64 arg = pointer_size ? 0 : from + at;
		__s64 got = 0;

		if (pointer_size)
			got = bpf_probe_read_user(&arg, pointer_size,
						  (void *)from + i * pointer_size);
		if (!got && (pointer_size ? !arg : arg >= end)) {
			ret->state = EV_WHOLE;
			break;
		}
		if (i >= (max_args ?: ARGV_MOST) || at >= ARGS_MOST)
			break;
		if (!got)
			got = read_user_string(tail.bytes + at, TEXT_MOST, (void *)arg);
		if (got <= 0) {
			ret->state = i ? EV_CUT : EV_UNREADABLE;
			break;
		}
		*tail.used = at + got;
		if (got == TEXT_MOST) {
			--*tail.used; /* without its NUL, to show that it is cut */
			break;
		}
	}
	finish_tail_part(tail, ret);
}

/*
 * Put all arguments of a new process image as the first part of the tail. The kernel has just
 * written them, so none of them is paged out.
 */
static __always_inline void put_args(struct tail tail, struct ev_part *ret, __u64 from, __u64 end)
{
	__u64 size = end - from;

	begin_tail_part(tail, ret, EV_WHOLE);
	barrier_var(size);
	if (size > ARGS_MOST) {
		ret->state = EV_CUT;
		size = ARGS_MOST;
	}
	if (bpf_probe_read_user(tail.bytes, size, (void *)from))
		ret->state = EV_UNREADABLE;
	else
		*tail.used = size;
	finish_tail_part(tail, ret);
}

static __always_inline bool is_wanted_variable(const __u64 *text)
{
	return (text[0] & variable_mask[0]) == variable[0] &&
	       (text[1] & variable_mask[1]) == variable[1] &&
	       (text[2] & variable_mask[2]) == variable[2] &&
	       (text[3] & variable_mask[3]) == variable[3];
}

static __always_inline void put_variable(struct tail tail, struct ev_part *ret, __u64 from,
					 __u64 end)
{
	bool begins = true;

	begin_tail_part(tail, ret, EV_CUT);
	for (__u32 i = 0; i < ENVIRONMENT_MOST; i++) {
		__u64 at = used_of(tail);
		__s64 got;

		if (from >= end) {
			no_part(ret);
			break;
		}
		if (at >= tail.most)
			break;
		got = read_user_string(tail.bytes + at, TEXT_MOST, (void *)from);
		if (got <= 0) {
			ret->state = EV_UNREADABLE;
			break;
		}
		if (begins && is_wanted_variable((void *)tail.bytes + at)) {
			ret->at = at + variable_length;
			ret->length = got - 1 - variable_length;
			ret->state = got < TEXT_MOST ? EV_WHOLE : EV_CUT;
			*tail.used = at + got;
			break;
		}
		/* A longer variable is read in pieces. Only the first begins with a name. */
		begins = got < TEXT_MOST;
		from += got - !begins;
	}
}

#endif
