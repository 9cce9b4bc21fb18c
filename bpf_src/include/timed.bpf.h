/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* How long system calls take: the ladders "enter" and "gone", which an option may enable. */
#ifndef TIMED_BPF_H
#define TIMED_BPF_H

#include "filter.bpf.h"
#include "read.bpf.h"
#include "syscall.bpf.h"

/*
 * When the call began that a thread is in, in ns of CLOCK_BOOTTIME; 0 while it is in none. An entry
 * stays until the thread ends, so most changes take no lock.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, __u32);
	__type(value, __u64);
} starts SEC(".maps");

/* LOST, unless it is NULL, counts begins without room. */
static __always_inline int call_began(__u64 *lost)
{
	__u64 pid_tgid = bpf_get_current_pid_tgid(), now, *known;
	__u32 tid = pid_tgid;

	if (filtered_out(pid_tgid))
		return 0;
	now = bpf_ktime_get_boot_ns();
	known = bpf_map_lookup_elem(&starts, &tid);
	if (known)
		*known = now;
	else if (bpf_map_update_elem(&starts, &tid, &now, BPF_ANY) && lost)
		__sync_fetch_and_add(lost, 1);
	return 0;
}

/*
 * How long the call took that ended at NOW; EV_NO_DURATION if it began before the tracing, or if
 * there was no room for its begin.
 */
static __always_inline __u64 call_duration(__u64 now)
{
	__u32 tid = bpf_get_current_pid_tgid();
	__u64 *known = bpf_map_lookup_elem(&starts, &tid), began;

	if (!known || !*known)
		return EV_NO_DURATION;
	began = *known;
	*known = 0;
	return now - began;
}

static __always_inline int thread_gone(void)
{
	__u32 tid = bpf_get_current_pid_tgid();

	bpf_map_delete_elem(&starts, &tid);
	return 0;
}

/* A thread that runs another program gets the number of its process, and never ends by its own. */
static __always_inline int thread_renamed(__u32 old_tid)
{
	if (old_tid != (__u32)bpf_get_current_pid_tgid())
		bpf_map_delete_elem(&starts, &old_tid);
	return 0;
}

ON_TRACEPOINT(sched_process_exit, gone, , thread_gone())
ON_TRACEPOINT(sched_process_exec, gone, __exec, thread_renamed(old_tid), struct task_struct *task,
	      int old_tid)

/*
 * To stand behind the programs for the ends of these calls, so that these are attached first. LOST
 * is a counter of calls that are not shown because there was no room for their begin, or NULL.
 */
#define ON_TIMED_SYSCALL(wanted, lost) ON_SYSCALL_ENTER(enter, wanted, call_began(lost))

#endif
