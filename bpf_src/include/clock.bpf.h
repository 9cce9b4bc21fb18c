/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Samples: programs that a clock runs on each CPU, as many times a second as --frequency says. */
#ifndef CLOCK_BPF_H
#define CLOCK_BPF_H

#include "record.bpf.h"

/* Of all CPUs, and of those that were not idle. The session knows how many there should be. */
__u64 clock_samples;
__u64 clock_busy_samples;

/*
 * ON_CLOCK(sample, sampled) makes the program sample__cpu_clock, which calls sampled(ctx). The
 * clock is the kernel's own: every machine has it, and it also ticks while a CPU is idle.
 */
#define ON_CLOCK(ladder, handle)                                                               \
	SEC("perf_event")                                                                      \
	int ladder##__cpu_clock(struct bpf_perf_event_data *ctx)                               \
	{                                                                                      \
		__sync_fetch_and_add(&clock_samples, 1);                                       \
		if (bpf_get_current_pid_tgid()) /* else the idle task of this CPU */           \
			__sync_fetch_and_add(&clock_busy_samples, 1);                          \
		return handle(ctx);                                                            \
	}

#endif
