/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Programs that a clock runs on each CPU, --frequency times a second. */
#ifndef CLOCK_BPF_H
#define CLOCK_BPF_H

#include "record.bpf.h"

/* Runs on all CPUs, and on busy CPUs only. The session knows how many there should be. */
__u64 clock_samples;
__u64 clock_busy_samples;

/*
 * ON_CLOCK(sample, sampled) defines the program sample__cpu_clock, which calls sampled(ctx). It
 * uses the kernel's own clock, which every machine has, and which also ticks while a CPU is idle.
 */
#define ON_CLOCK(ladder, handle)                                                               \
	SEC("perf_event")                                                                      \
	int ladder##__cpu_clock(struct bpf_perf_event_data *ctx)                               \
	{                                                                                      \
		__sync_fetch_and_add(&clock_samples, 1);                                       \
		if (bpf_get_current_pid_tgid()) /* 0 is the idle task */                       \
			__sync_fetch_and_add(&clock_busy_samples, 1);                          \
		return handle(ctx);                                                            \
	}

#endif
