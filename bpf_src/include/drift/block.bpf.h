/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* struct request and the tracepoints that tell of it, as they were and are. */
#ifndef DRIFT_BLOCK_BPF_H
#define DRIFT_BLOCK_BPF_H

#include "record.bpf.h"
#include "nvme.bpf.h"
#include "read.bpf.h"

#define REQ_OP_MASK 0xff

/*
 * Linux commit a54895fa057c ("block: remove the request_queue to argument request based
 * tracepoints") (in v5.11, and in v5.10.137) took away the queue that came first in
 * block_rq_insert, block_rq_issue, block_rq_merge and block_rq_requeue.
 */
const volatile __u32 argc_block_rq_issue;

static __always_inline struct request *traced_request(const unsigned long long *ctx)
{
	unsigned long long request;

	if (argc_block_rq_issue == 1)
		return (void *)ctx[0];
	request = ctx[1];
	barrier_var(request); /* keeps both loads at constant offsets, as the verifier demands */
	return (void *)request;
}

/*
 * Linux commit f3fa33acca9f ("block: remove the ->rq_disk field in struct request") (in v5.17)
 * leaves only the disk of the queue.
 */
struct request___before_5_17 {
	struct gendisk *rq_disk;
} __attribute__((preserve_access_index));

static __always_inline struct gendisk *request_disk(struct request *rq, bool typed)
{
	struct request___before_5_17 *old = (void *)rq;
	struct request_queue *queue;

	if (bpf_core_field_exists(old->rq_disk))
		return READ(typed, old, rq_disk);
	queue = READ(typed, rq, q);
	return READ(typed, queue, disk);
}

static __always_inline void copy_disk_name(ev_disk *ret, struct gendisk *disk, bool typed)
{
	__builtin_memset(ret, 0, sizeof(*ret));
	if (!disk)
		(*ret)[0] = '-';
	else if (typed)
		__builtin_memcpy(ret, disk->disk_name, sizeof(*ret));
	else
		BPF_CORE_READ_INTO(ret, disk, disk_name);
	cut_nvme_path(*ret);
}

/* In units of 512 bytes; 0 where it has no place on the disk. */
static __always_inline __u64 request_sector(struct request *rq, bool typed)
{
	__u64 sector = READ(typed, rq, __sector);

	return sector == -1ull ? 0 : sector;
}

/* By blk_status_t. What lies above has changed its numbers, and its names go by EIO. */
static const __s16 errors_by_status[] = {
	[1] = -95,   /* BLK_STS_NOTSUPP */
	[2] = -110,  /* BLK_STS_TIMEOUT */
	[3] = -28,   /* BLK_STS_NOSPC */
	[4] = -67,   /* BLK_STS_TRANSPORT */
	[5] = -121,  /* BLK_STS_TARGET */
	[6] = -52,   /* BLK_STS_RESV_CONFLICT */
	[7] = -61,   /* BLK_STS_MEDIUM */
	[8] = -84,   /* BLK_STS_PROTECTION */
	[9] = -12,   /* BLK_STS_RESOURCE */
	[10] = -5,   /* BLK_STS_IOERR */
	[11] = -5,
	[12] = -11,  /* BLK_STS_AGAIN */
	[13] = -16,  /* BLK_STS_DEV_RESOURCE */
};

/*
 * The negative errno of a request that has failed, or 0. A table, because the verifier would go on
 * with each result of a switch.
 */
static __always_inline __s64 request_error(int error)
{
	__u64 status = error;

	/* v5.10 tells an errno, v6.1 a blk_status_t: positive numbers that user space never sees. */
	if (error <= 0)
		return error;
	barrier_var(status);
	if (status < sizeof(errors_by_status) / sizeof(errors_by_status[0]))
		return errors_by_status[status];
	return -5;
}

#endif
