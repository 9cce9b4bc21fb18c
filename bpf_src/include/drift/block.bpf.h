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
static __always_inline __u32 request_device(struct request *rq, bool typed)
{
	struct gendisk *disk = request_disk(rq, typed);

	return disk ? READ(typed, disk, major) << 20 | READ(typed, disk, first_minor) : 0;
}

#endif
