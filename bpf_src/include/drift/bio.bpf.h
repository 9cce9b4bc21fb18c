/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* struct bio and the tracepoints that tell of it, as they were and are. */
#ifndef DRIFT_BIO_BPF_H
#define DRIFT_BIO_BPF_H

#include "record.bpf.h"
#include "read.bpf.h"

/*
 * Linux commit e8a676d61c07 ("block: simplify and extend the block_bio_merge tracepoint class")
 * (in v5.11) took away the queue that came first in block_getrq and block_bio_queue. Count the
 * arguments by one of these.
 */
const volatile __u32 argc_block_getrq;
const volatile __u32 argc_block_bio_queue;

static __always_inline struct bio *traced_bio(const unsigned long long *ctx, __u32 argc)
{
	unsigned long long bio;

	if (argc == 1)
		return (void *)ctx[0];
	bio = ctx[1];
	barrier_var(bio); /* keeps both loads at constant offsets, as the verifier demands */
	return (void *)bio;
}

/*
 * Linux commit 309dca309fc3 ("block: store a block_device pointer in struct bio") (in v5.12)
 * leaves only that of the partition.
 */
struct bio___before_5_12 {
	struct gendisk *bi_disk;
} __attribute__((preserve_access_index));

static __always_inline struct gendisk *bio_disk(struct bio *bio, bool typed)
{
	struct bio___before_5_12 *old = (void *)bio;
	struct block_device *device;

	if (bpf_core_field_exists(old->bi_disk))
		return READ(typed, old, bi_disk);
	device = READ(typed, bio, bi_bdev);
	return READ(typed, device, bd_disk);
}

/*
 * The partition that a bio is for, or its disk, major << 20 | minor; 0 before v5.12, where a bio
 * has forgotten its partition by the time that it is traced.
 */
static __always_inline __u32 bio_device_number(struct bio *bio, bool typed)
{
	struct block_device *device;

	if (!bpf_core_field_exists(bio->bi_bdev))
		return 0;
	device = READ(typed, bio, bi_bdev);
	return READ(typed, device, bd_dev);
}

#endif
