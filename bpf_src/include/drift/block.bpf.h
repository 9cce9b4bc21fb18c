/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* struct request and the tracepoints that tell of it, as they were and are. */
#ifndef DRIFT_BLOCK_BPF_H
#define DRIFT_BLOCK_BPF_H

#include "record.bpf.h"
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

/* The number of the disk as user space writes it, major << 20 | minor; 0 without a disk. */
static __always_inline __u32 disk_number(struct gendisk *disk, bool typed)
{
	return disk ? READ(typed, disk, major) << 20 | READ(typed, disk, first_minor) : 0;
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
}

/* In units of 512 bytes; 0 where it has no place on the disk. */
static __always_inline __u64 request_sector(struct request *rq, bool typed)
{
	__u64 sector = READ(typed, rq, __sector);

	return sector == -1ull ? 0 : sector;
}

/* The negative errno of a request that has failed, or 0. */
static __always_inline __s64 request_error(int error)
{
	/* v5.10 tells an errno, v6.1 a blk_status_t: positive numbers that user space never sees. */
	if (error <= 0)
		return error;
	switch (error) {
	case 1: /* BLK_STS_NOTSUPP */
		return -95;
	case 2: /* BLK_STS_TIMEOUT */
		return -110;
	case 3: /* BLK_STS_NOSPC */
		return -28;
	case 4: /* BLK_STS_TRANSPORT */
		return -67;
	case 5: /* BLK_STS_TARGET */
		return -121;
	case 6: /* BLK_STS_RESV_CONFLICT */
		return -52;
	case 7: /* BLK_STS_MEDIUM */
		return -61;
	case 8: /* BLK_STS_PROTECTION */
		return -84;
	case 9: /* BLK_STS_RESOURCE */
		return -12;
	case 12: /* BLK_STS_AGAIN */
		return -11;
	case 13: /* BLK_STS_DEV_RESOURCE */
		return -16;
	}
	/* BLK_STS_IOERR is 10; what lies above 13 has changed its numbers, and its names go by EIO. */
	return -5;
}

#endif
