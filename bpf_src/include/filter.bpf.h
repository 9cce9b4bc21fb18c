/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Whose events are wanted: -p --follow --tid -u --comm --cgroup --container, and never our own
 * unless --include-self.
 */
#ifndef FILTER_BPF_H
#define FILTER_BPF_H

#include "record.bpf.h"
#include "drift/task.bpf.h"
#include "pair.bpf.h"
#include "read.bpf.h"

const volatile __u32 filter_pid;
const volatile bool filter_listed; /* the processes of the map followed */
const volatile bool filter_follow; /* these, or filter_pid, and all that descend from them */
const volatile __u32 filter_tid;
const volatile __s64 filter_uid = -1;
const volatile __u64 filter_comm[2]; /* 16 bytes, NUL padded */
const volatile __u64 filter_cgroup;  /* id, which is also the inode of its directory */
const volatile __u32 filter_cgroup_level;
const volatile __u32 filter_self;
const volatile bool with_cgroup;

/*
 * The processes that are listed or followed; of the latter, the start time of each. User space
 * gives the map its size.
 */
PAIRS(followed, __u32, __u64, 1);

static __always_inline bool process_filtered_out(__u32 pid)
{
	if (filter_follow || filter_listed)
		return !bpf_map_lookup_elem(&followed, &pid);
	return filter_pid && pid != filter_pid;
}

/* Whether an option leaves out the events of some processes, other than the tool's own. */
static __always_inline bool processes_chosen(void)
{
	return filter_pid || filter_listed || filter_follow || filter_tid || filter_uid >= 0 ||
	       filter_comm[0] || filter_cgroup;
}

static __always_inline bool ids_filtered_out(__u64 pid_tgid)
{
	__u32 pid = pid_tgid >> 32;

	return pid == filter_self || process_filtered_out(pid) ||
	       (filter_tid && (__u32)pid_tgid != filter_tid);
}

static __always_inline bool comm_filtered_out(const __u64 *comm)
{
	return comm[0] != filter_comm[0] || comm[1] != filter_comm[1];
}

/* For the ev_cgroup of a record or key, whose container is shown: 0 where nobody asked. */
static __always_inline __u64 current_cgroup(void)
{
	return with_cgroup ? bpf_get_current_cgroup_id() : 0;
}

static __always_inline __u64 cgroup_of_task(struct task_struct *task)
{
	return with_cgroup ? cgroup_id(task_cgroup(task)) : 0;
}

/*
 * Fill in those members of a record that tell of the current task, and the time. The record has a
 * time, pid, tid, uid, cgroup and comm.
 */
#define put_current_task(record, pid_tgid)                                                     \
	({                                                                                     \
		(record)->time = bpf_ktime_get_boot_ns();                                      \
		(record)->pid = (pid_tgid) >> 32;                                              \
		(record)->tid = (pid_tgid);                                                    \
		(record)->uid = bpf_get_current_uid_gid();                                     \
		(record)->cgroup = current_cgroup();                                           \
		bpf_get_current_comm((record)->comm, sizeof((record)->comm));                  \
	})

static __always_inline bool cgroup_filtered_out(struct cgroup *cgroup)
{
	return cgroup_ancestor_id(cgroup, filter_cgroup_level) != filter_cgroup;
}

/* Apply all filters but that of the cgroup to the current task. */
static __always_inline bool filtered_out_beside_cgroup(__u64 pid_tgid)
{
	if (ids_filtered_out(pid_tgid))
		return true;
	if (filter_uid >= 0 && (__u32)bpf_get_current_uid_gid() != filter_uid)
		return true;
	if (filter_comm[0]) {
		__u64 comm[2] = {};

		bpf_get_current_comm(comm, sizeof(comm));
		return comm_filtered_out(comm);
	}
	return false;
}

/* Apply the filters to the current task. */
static __always_inline bool filtered_out(__u64 pid_tgid)
{
	return filtered_out_beside_cgroup(pid_tgid) ||
	       (filter_cgroup &&
		cgroup_filtered_out(task_cgroup((void *)bpf_get_current_task())));
}

/* Apply the filters to another task, without those of its ids. */
static __always_inline bool task_traits_filtered_out(struct task_struct *task)
{
	if (filter_uid >= 0 && BPF_CORE_READ(task, cred, uid.val) != filter_uid)
		return true;
	if (filter_comm[0]) {
		__u64 comm[2] = {};

		BPF_CORE_READ_STR_INTO(&comm, task, comm);
		if (comm_filtered_out(comm))
			return true;
	}
	return filter_cgroup && cgroup_filtered_out(task_cgroup(task));
}

/* Apply the filters to another task, which waits, wakes or is woken. */
static __always_inline bool task_filtered_out(struct task_struct *task)
{
	__u64 pid_tgid = (__u64)BPF_CORE_READ(task, tgid) << 32 | BPF_CORE_READ(task, pid);

	return ids_filtered_out(pid_tgid) || task_traits_filtered_out(task);
}

static __always_inline int forked(struct task_struct *parent, struct task_struct *child, bool typed)
{
	__u32 parent_pid = READ(typed, parent, tgid), pid = READ(typed, child, tgid);
	__u64 began = READ(typed, child, start_time);

	if (READ(typed, child, pid) != pid) /* a thread */
		return 0;
	if (bpf_map_lookup_elem(&followed, &parent_pid))
		pair_begin(followed, &pid, &began, BPF_ANY);
	else
		bpf_map_delete_elem(&followed, &pid); /* of an earlier process with this id */
	return 0;
}

/*
 * A process is forgotten only when its task is freed and nothing can happen to it any more. By then
 * another process may have its id. If a thread has become the leader by an exec, two tasks had that
 * id, and the process ends with the last of them.
 */
static __always_inline int freed(struct task_struct *task, bool typed)
{
	__u32 pid = READ(typed, task, tgid);
	__u64 *began = bpf_map_lookup_elem(&followed, &pid);

	if (began && *began == READ(typed, task, start_time) && READ(typed, task, pid) == pid)
		bpf_map_delete_elem(&followed, &pid);
	return 0;
}

ON_TRACEPOINT(sched_process_free, follow, __free, freed(task, typed), struct task_struct *task)
ON_TRACEPOINT(sched_process_fork, follow, __fork, forked(parent, child, typed),
	      struct task_struct *parent, struct task_struct *child)

/* A task that the reader's PID namespace shows. All ids but the first are those on the host. */
struct seen_task {
	__u32 tid_here;
	__u32 tid;
	__u32 pid;
	__u32 ppid;
	__u64 began;
};

SEC("?iter/task")
int list_tasks(struct bpf_iter__task *ctx)
{
	struct task_struct *reader = (void *)bpf_get_current_task(), *task = ctx->task;
	struct seen_task seen = {};

	if (!task)
		return 0;
	/* A task has an id in its own namespace and in each one above; the host's is number 0. */
	bpf_probe_read_kernel(&seen.tid_here, sizeof(seen.tid_here),
			      (void *)BPF_CORE_READ(task, thread_pid) +
				      bpf_core_field_offset(struct pid, numbers) +
				      BPF_CORE_READ(reader, thread_pid, level) *
					      bpf_core_type_size(struct upid));
	seen.tid = task->pid;
	seen.pid = task->tgid;
	seen.ppid = task->real_parent->tgid;
	seen.began = task->start_time;
	bpf_seq_write(ctx->meta->seq, &seen, sizeof(seen));
	return 0;
}

#endif
