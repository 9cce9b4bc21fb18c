/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * For whom a block request is made, and for which device: to be asked where it is submitted, never
 * where it ends. A device that has no requests is traced by its bios.
 */
#ifndef REQUEST_BPF_H
#define REQUEST_BPF_H

#include "record.bpf.h"
#include "disk.bpf.h"
#include "filter.bpf.h"
#include "drift/bio.bpf.h"
#include "drift/block.bpf.h"

const volatile __u32 filter_partition;		/* major << 20 | minor */
const volatile __u64 filter_first_sector;	/* of the partition */
const volatile __u64 filter_sectors;

static __always_inline bool partition_filtered_out(struct bio *bio, bool typed)
{
	__u32 number = bio_device_number(bio, typed);
	__u64 sector;

	if (number)
		return number != filter_partition;
	/* As the kernel itself found the partition of a request then. */
	sector = READ(typed, bio, bi_iter.bi_sector);
	return sector < filter_first_sector || sector - filter_first_sector >= filter_sectors;
}

/*
 * NAME is that of the disk. BIO is NULL where a request has none: then it is the disk's, and no
 * partition's.
 */
static __always_inline bool device_filtered_out(const char *name, struct bio *bio, bool typed)
{
	return disk_filtered_out(name) || (filter_partition && partition_filtered_out(bio, typed));
}

/* Bios before the one that a request was made for: merged in front of it. */
#define BIOS_IN_FRONT_MOST 64

/*
 * Take away what block_getrq told of one of a request's bios: from PAIRS, by the bio's address, to
 * RET. True if there was one.
 */
#define take_by_bio(pairs, rq, ret, typed)                                                     \
	({                                                                                     \
		struct bio *__bio = READ(typed, rq, bio);                                      \
		bool __found = false;                                                          \
		for (int __i = 0; __bio && __i < BIOS_IN_FRONT_MOST; __i++) {                  \
			__found = pair_end(pairs, &(__u64){ (__u64)__bio }, ret);              \
			if (__found)                                                           \
				break;                                                         \
			__bio = READ(typed, __bio, bi_next);                                   \
		}                                                                              \
		__found;                                                                       \
	})

static __always_inline void copy_filtered_disk_name(ev_disk *ret)
{
#pragma unroll
	for (int i = 0; i < DISK_LEN; i++)
		(*ret)[i] = filter_disk[i];
}

/*
 * ON_BIOS(started, ended, most): programs that call started(bio, again, typed) and ended(bio, error,
 * typed) for the bios that are submitted to a disk, those of disks with requests included. The
 * verifier goes through the second once for each of the MOST bios that are looked for in a request:
 * let it be short, or MOST be few.
 * Both are inline, as everything else here: v5.10 was seen to crash where a tp_btf program that
 * calls a BPF function reads through a NULL pointer, as a request without a bio makes it do.
 *
 * A bio that is split is told as a whole: what is split off starts without a word, and the rest
 * ends last. A bio that a disk has sent on as it was, to a disk with requests, ends with the
 * request that it has become part of, and no block_bio_complete tells that.
 */
#define ON_BIOS(started, ended, most)                                                          \
	static __always_inline int ended##_with_request(struct request *rq, int error,         \
							__u32 bytes, bool typed)               \
	{                                                                                      \
		struct bio *bio = READ(typed, rq, bio);                                        \
		for (int i = 0; bio && i < (most); i++) {                                      \
			__u32 size = READ(typed, bio, bi_iter.bi_size);                        \
			if (size > bytes)                                                      \
				break; /* the rest of it comes back */                         \
			ended(bio, error, typed);                                              \
			bytes -= size;                                                         \
			bio = READ(typed, bio, bi_next);                                       \
		}                                                                              \
		return 0;                                                                      \
	}                                                                                      \
	ON_TRACEPOINT_THRICE(block_rq_complete, bio_end, __with_request,                       \
			     ended##_with_request(rq, error, bytes, typed),                    \
			     struct request *rq, int error, unsigned int bytes)                \
	ON_TRACEPOINT_THRICE(block_bio_complete, bio_end, ,                                    \
			     ended(bio, READ(typed, bio, bi_status), typed),                   \
			     struct request_queue *queue, struct bio *bio)                     \
	ON_TRACEPOINT_THRICE(block_bio_queue, bio_start, ,                                     \
			     started(traced_bio(ctx, argc_block_bio_queue), again, typed))

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
