/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* For whom a block request is made: to be asked where it is submitted, never where it ends. */
#ifndef REQUEST_BPF_H
#define REQUEST_BPF_H

#include "record.bpf.h"
#include "filter.bpf.h"
#include "drift/block.bpf.h"

const volatile __u32 filter_disk;

static __always_inline bool disk_filtered_out(struct gendisk *disk, bool typed)
{
	return filter_disk && disk_number(disk, typed) != filter_disk;
}

/*
 * The cgroup that an I/O is charged to, which is that of the process that wrote the data, whoever
 * writes them back. NULL where it tells no more than the cgroup of the current task does: because
 * the io controller stops above that one, or is not in the unified hierarchy.
 */
static __always_inline struct cgroup *charged_cgroup(struct bio *bio, bool typed)
{
	struct cgroup_root *root;
	struct blkcg_gq *group;
	struct cgroup *cgroup;
	struct blkcg *blkcg;
	__u32 level;

	if (!bpf_core_field_exists(bio->bi_blkg))
		return NULL;
	group = READ(typed, bio, bi_blkg);
	blkcg = READ(typed, group, blkcg);
	cgroup = READ(typed, blkcg, css.cgroup);
	level = READ(typed, cgroup, level);
	root = READ(typed, cgroup, root);
	if (!level || READ(typed, root, hierarchy_id) ||
	    current_ancestor_id(level, typed) == typed_cgroup_id(cgroup, typed))
		return NULL;
	return cgroup;
}

/* Of an ev_cgroup: who submits. */
static __always_inline __u64 submitter_cgroup(struct cgroup *charged, bool typed)
{
	return charged ? typed_cgroup_id(charged, typed) : bpf_get_current_cgroup_id();
}

/* Judge who submits: the current task, but by the cgroup that the I/O is charged to. */
static __always_inline bool submitter_filtered_out(struct cgroup *charged)
{
	if (filter_cgroup && charged)
		return filtered_out_beside_cgroup(bpf_get_current_pid_tgid()) ||
		       cgroup_filtered_out(charged);
	return filtered_out(bpf_get_current_pid_tgid());
}

#endif
