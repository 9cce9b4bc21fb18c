/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* struct bio and the tracepoint that tells of its request, as they were and are. */
#ifndef DRIFT_BIO_BPF_H
#define DRIFT_BIO_BPF_H

#include "record.bpf.h"
#include "read.bpf.h"

/* block_getrq told (queue, bio, rw) on v5.10, and tells (bio) on v6.1. */
const volatile __u32 argc_block_getrq;

static __always_inline struct bio *traced_bio(const unsigned long long *ctx)
{
	unsigned long long bio;

	if (argc_block_getrq == 1)
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

#endif
