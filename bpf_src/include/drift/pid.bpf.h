/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* struct pid: processes as a PID namespace numbers them, and as descriptors stand for them. */
#ifndef DRIFT_PID_BPF_H
#define DRIFT_PID_BPF_H

#include "record.bpf.h"
#include "path.bpf.h"

#define PIDS_TREE_DEPTH 4 /* PID_MAX_LIMIT is 2^22, and a node has 2^6 slots */
#define XA_NODE 2	  /* the lower bits of a pointer to a node */
#define XA_BITS 3
#define ANON_INODE_FS_MAGIC 0x09041934
#define PID_FS_MAGIC 0x50494446
#define PROC_SUPER_MAGIC 0x9fa0

/* The number that a PID namespace has for it: the host's is at level 0, the one within at 1. */
static __always_inline struct upid *upid_at(struct pid *pid, __u32 level)
{
	return (void *)pid + bpf_core_field_offset(struct pid, numbers) +
	       level * bpf_core_type_size(struct upid);
}

/* What a number means in the PID namespace at LEVEL of OWN; NULL if it means nothing. */
static __always_inline struct pid *find_pid_at(__u32 number, struct pid *own, __u32 level)
{
	__u64 slots = bpf_core_field_size(((struct xa_node *)0)->slots) / sizeof(void *);
	__u64 entry = (__u64)BPF_CORE_READ(upid_at(own, level), ns, idr.idr_rt.xa_head);

#pragma unroll
	for (int depth = 0; depth < PIDS_TREE_DEPTH; depth++) {
		struct xa_node *node = (void *)(entry & ~(__u64)XA_BITS);
		__u64 slot;

		if ((entry & XA_BITS) != XA_NODE)
			break;
		slot = number >> BPF_CORE_READ(node, shift);
		if (!depth && slot >= slots)
			return NULL;
		entry = 0;
		bpf_probe_read_kernel(&entry, sizeof(entry),
				      (void *)node + bpf_core_field_offset(struct xa_node, slots) +
					      (slot & (slots - 1)) * sizeof(void *));
	}
	return entry & XA_BITS ? NULL : (void *)entry;
}

static __always_inline struct pid *current_pid(void)
{
	return BPF_CORE_READ((struct task_struct *)bpf_get_current_task(), thread_pid);
}

/* What a number means to the current task. */
static __always_inline struct pid *find_pid(__u32 number)
{
	struct pid *own = current_pid();

	return find_pid_at(number, own, BPF_CORE_READ(own, level));
}

/* What a number means to the host. */
static __always_inline struct pid *find_pid_on_host(__u32 number)
{
	return find_pid_at(number, current_pid(), 0);
}

/* The number that the host has for it. */
static __always_inline __u32 number_on_host(struct pid *pid)
{
	return BPF_CORE_READ(upid_at(pid, 0), nr);
}

/* The number that the PID namespace of the current task has for it; 0 if it has none. */
static __always_inline __u32 number_here(struct pid *pid)
{
	struct pid *own = current_pid();
	__u32 level = BPF_CORE_READ(own, level);
	struct upid *upid = upid_at(pid, level);

	if (level > BPF_CORE_READ(pid, level) ||
	    BPF_CORE_READ(upid, ns) != BPF_CORE_READ(upid_at(own, level), ns))
		return 0;
	return BPF_CORE_READ(upid, nr);
}

/* The thread of this number, which is the first one of a process; NULL if it is gone. */
static __always_inline struct task_struct *task_of_pid(struct pid *pid)
{
	struct hlist_node *link = BPF_CORE_READ(pid, tasks[PIDTYPE_PID].first);

	return link ? container_of(link, struct task_struct, pid_links[PIDTYPE_PID]) : NULL;
}

/* The process group of a task. */
static __always_inline struct pid *group_of_task(struct task_struct *task)
{
	return BPF_CORE_READ(task, signal, pids[PIDTYPE_PGID]);
}

/*
 * Descriptors that stand for the current task since Linux commit f08d0c3a7111 ("pidfd: add
 * PIDFD_SELF* sentinels to refer to own thread/process") (in v6.15). The second one got another
 * number with Linux commit 67fcec2919e4 ("fcntl/pidfd: redefine PIDFD_SELF_THREAD_GROUP") (in v6.17).
 */
#define PIDFD_SELF_THREAD -10000
#define PIDFD_SELF_THREAD_GROUP -10001
#define PIDFD_SELF_THREAD_GROUP_BEFORE_6_17 -20000

/* What such a descriptor stands for, if the kernel knows it. NULL for others. */
static __always_inline struct pid *pid_of_self(int fd)
{
	struct task_struct *task = (void *)bpf_get_current_task();

	if (fd == PIDFD_SELF_THREAD)
		return current_pid();
	if (fd == PIDFD_SELF_THREAD_GROUP || fd == PIDFD_SELF_THREAD_GROUP_BEFORE_6_17)
		return BPF_CORE_READ(task, signal, pids[PIDTYPE_TGID]);
	return NULL;
}

/*
 * What a descriptor of the current task stands for in pidfd_send_signal(2): it is a pidfd or a
 * directory of /proc. NULL for others.
 */
static __always_inline struct pid *pid_of_fd(int fd)
{
	struct file *file = file_of_fd((void *)bpf_get_current_task(), fd);
	struct inode *inode = BPF_CORE_READ(file, f_inode);
	char name[8] = {}, pidfd[8] = "[pidfd]";

	switch (BPF_CORE_READ(inode, i_sb, s_magic)) {
	case PID_FS_MAGIC:
		return BPF_CORE_READ(inode, i_private);
	case PROC_SUPER_MAGIC:
		return BPF_CORE_READ(container_of(inode, struct proc_inode, vfs_inode), pid);
	case ANON_INODE_FS_MAGIC:
		/* Before Linux commit cb12fd8e0dab ("pidfd: add pidfs") (in v6.9). */
		bpf_probe_read_kernel_str(name, sizeof(name),
					  BPF_CORE_READ(file, f_path.dentry, d_name.name));
		if (*(__u64 *)name == *(__u64 *)pidfd)
			return BPF_CORE_READ(file, private_data);
	}
	return NULL;
}

#endif
