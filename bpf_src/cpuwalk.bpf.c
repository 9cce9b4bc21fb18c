/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "record.bpf.h"
#include "clock.bpf.h"
#include "count.bpf.h"
#include "filter.bpf.h"

const volatile bool per_process;

struct place {
	__u32 cpu;
	__u32 pid;
	ev_cgroup cgroup;
	ev_comm comm;
};

struct samples {
	ev_count count;
};

TOP(places, place, samples, 16384);

static __always_inline int sampled(void *ctx)
{
	__u64 pid_tgid = bpf_get_current_pid_tgid();
	struct place place = { .cpu = bpf_get_smp_processor_id() };
	struct samples *samples;

	/* The idle task has the id 0 on every CPU, and is no process. */
	if (!pid_tgid || filtered_out(pid_tgid))
		return 0;
	place.cgroup = current_cgroup();
	if (per_process) {
		place.pid = pid_tgid >> 32;
		bpf_get_current_comm(place.comm, sizeof(place.comm));
	}
	samples = top_of(places, &place);
	if (samples)
		add(samples->count, 1);
	return 0;
}

ON_CLOCK(sample, sampled)
