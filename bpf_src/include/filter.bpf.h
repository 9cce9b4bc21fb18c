/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Whose events are wanted: -p --tid -u --comm --cgroup, and never our own unless --self. */
#ifndef FILTER_BPF_H
#define FILTER_BPF_H

#include "record.bpf.h"
#include "drift/task.bpf.h"

const volatile __u32 filter_pid;
const volatile __u32 filter_tid;
const volatile __s64 filter_uid = -1;
const volatile __u64 filter_comm[2]; /* 16 bytes, NUL padded */
const volatile __u64 filter_cgroup;  /* id, which is also the inode of its directory */
const volatile __u32 filter_cgroup_level;
const volatile __u32 filter_self;

static __always_inline bool ids_filtered_out(__u64 pid_tgid)
{
	__u32 pid = pid_tgid >> 32;

	return pid == filter_self || (filter_pid && pid != filter_pid) ||
	       (filter_tid && (__u32)pid_tgid != filter_tid);
}

static __always_inline bool comm_filtered_out(const __u64 *comm)
{
	return comm[0] != filter_comm[0] || comm[1] != filter_comm[1];
}

static __always_inline bool cgroup_filtered_out(struct cgroup *cgroup)
{
	return cgroup_ancestor_id(cgroup, filter_cgroup_level) != filter_cgroup;
}

/* Judge the task that runs now. */
static __always_inline bool filtered_out(__u64 pid_tgid)
{
	if (ids_filtered_out(pid_tgid))
		return true;
	if (filter_uid >= 0 && (__u32)bpf_get_current_uid_gid() != filter_uid)
		return true;
	if (filter_comm[0]) {
		__u64 comm[2] = {};

		bpf_get_current_comm(comm, sizeof(comm));
		if (comm_filtered_out(comm))
			return true;
	}
	return filter_cgroup && cgroup_filtered_out(task_cgroup((void *)bpf_get_current_task()));
}

/* What there is to judge of another task beside its ids. */
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

/* Judge another task: one that waits, wakes or is woken. */
static __always_inline bool task_filtered_out(struct task_struct *task)
{
	__u64 pid_tgid = (__u64)BPF_CORE_READ(task, tgid) << 32 | BPF_CORE_READ(task, pid);

	return ids_filtered_out(pid_tgid) || task_traits_filtered_out(task);
}

#endif
