/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "record.bpf.h"
#include "hist.bpf.h"
#include "pair.bpf.h"
#include "read.bpf.h"
#include "request.bpf.h"

const volatile bool per_process;
const volatile bool per_disk;
const volatile bool per_operation;

struct io {
	ev_comm comm;
	__u32 pid;
	ev_disk disk;
	ev_operation operation;
	ev_cgroup cgroup;
};

/* Who submitted a request that is under way. */
struct submission {
	ev_comm comm;
	ev_cgroup cgroup;
	__u32 pid;
	__u32 tid;
	__u64 issued; /* true if its size has been counted */
};

/*
 * By the address of the request; where block_getrq tells the start, by that of the bio until the
 * first issue.
 */
PAIRS(begun, __u64, struct submission, 16384);
HISTOGRAMS(sizes, io, 16384);
static bool by_bio;
__u64 start_by_stand_in;

/*
 * For stand-ins: true if the first program has recorded this start. An entry that was issued is left
 * over from an older request.
 */
static __always_inline bool is_known(__u64 key)
{
	struct submission *known = bpf_map_lookup_elem(&begun, &key);

	return known && !known->issued && known->tid == (__u32)bpf_get_current_pid_tgid();
}

static __always_inline void remember(__u64 key, const struct submission *submission, bool again)
{
	if (!again) {
		pair_begin(begun, &key, submission, BPF_ANY);
		return;
	}
	bpf_map_delete_elem(&begun, &key);
	if (pair_stand_in(begun, &key, submission))
		__sync_fetch_and_add(&start_by_stand_in, 1);
}

/*
 * Describe what the current task submits for this disk; return false if the options leave it out.
 * BIO is NULL where there is none.
 */
static __always_inline bool put_submission(struct submission *ret, struct gendisk *disk,
					   struct bio *bio, bool typed)
{
	struct cgroup *charged = charged_cgroup(bio, typed);
	__u64 pid_tgid = bpf_get_current_pid_tgid();
	ev_disk name;

	copy_disk_name(&name, disk, typed);
	if (device_filtered_out(name, bio, typed) || submitter_filtered_out(charged))
		return false;
	__builtin_memset(ret, 0, sizeof(*ret));
	bpf_get_current_comm(ret->comm, sizeof(ret->comm));
	ret->pid = pid_tgid >> 32;
	ret->tid = pid_tgid;
	if (with_cgroup)
		ret->cgroup = submitter_cgroup(charged, typed);
	return true;
}

static __always_inline void count(const struct submission *submission, struct gendisk *disk,
				  __u32 flags, __u32 bytes, bool typed)
{
	struct io io;

	__builtin_memset(&io, 0, sizeof(io));
	__builtin_memcpy(io.comm, submission->comm, sizeof(io.comm));
	io.cgroup = submission->cgroup;
	if (per_process)
		io.pid = submission->pid;
	if (per_disk)
		copy_disk_name(&io.disk, disk, typed);
	if (per_operation)
		io.operation = flags & REQ_OP_MASK;
	hist_add(sizes, &io, bytes);
}

static __always_inline int began(__u64 key, struct gendisk *disk, struct bio *bio, bool again,
				 bool typed)
{
	struct submission submission;

	if (again && is_known(key))
		return 0;
	if (put_submission(&submission, disk, bio, typed))
		remember(key, &submission, again);
	else
		bpf_map_delete_elem(&begun, &key); /* of an older request, whose end was missed */
	return 0;
}

static __always_inline int started(struct request *rq, bool again, bool typed)
{
	return began((__u64)rq, request_disk(rq, typed), READ(typed, rq, bio), again, typed);
}

static __always_inline int allocated(struct bio *bio, bool again, bool typed)
{
	if (!by_bio)
		by_bio = true;
	return began((__u64)bio, bio_disk(bio, typed), bio, again, typed);
}

/*
 * The size is that of the first issue: until then other bios may be merged into the request. What
 * is issued again was sent back, or is the rest of a request of which a part is done.
 */
static __always_inline int issued(struct request *rq, bool typed)
{
	__u64 key = (__u64)rq;
	__u32 bytes = READ(typed, rq, __data_len);
	struct submission *known = bpf_map_lookup_elem(&begun, &key);

	if (!known) {
		struct submission moved;

		if (by_bio && take_by_bio(begun, rq, &moved, typed))
			remember(key, &moved, false);
		else if (by_bio && READ(typed, rq, end_io)) /* it was not made for a bio */
			started(rq, false, typed);
		known = bpf_map_lookup_elem(&begun, &key);
	}
	if (!known || known->issued)
		return 0;
	known->issued = true;
	if (bytes)
		count(known, request_disk(rq, typed), READ(typed, rq, cmd_flags), bytes, typed);
	return 0;
}

/* The length is reduced after the tracepoint: what is left of a part comes back. */
static __always_inline int ended(struct request *rq, __u32 bytes, bool typed)
{
	struct submission ignored;

	if (bytes < READ(typed, rq, __data_len))
		return 0;
	/* A flush that became one of the kernel's own was never issued. */
	if (bpf_map_delete_elem(&begun, &(__u64){ (__u64)rq }) && by_bio && !bytes)
		take_by_bio(begun, rq, &ignored, typed);
	return 0;
}

static __always_inline int merged(struct request *rq, bool typed)
{
	struct submission ignored;

	if (bpf_map_delete_elem(&begun, &(__u64){ (__u64)rq }) && by_bio)
		take_by_bio(begun, rq, &ignored, typed);
	return 0;
}

static __always_inline int bio_submitted(struct bio *bio, bool typed)
{
	__u32 bytes = READ(typed, bio, bi_iter.bi_size);
	struct gendisk *disk = bio_disk(bio, typed);
	struct submission submission;

	if (bytes && put_submission(&submission, disk, bio, typed))
		count(&submission, disk, READ(typed, bio, bi_opf), bytes, typed);
	return 0;
}

/* What comes last is first, because programs are attached in this order: none of it is missed. */

ON_TRACEPOINT_THRICE(block_rq_complete, complete, , ended(rq, bytes, typed),
		     struct request *rq, int error, unsigned int bytes)
ON_TRACEPOINT_THRICE(block_rq_merge, issue, __merge, merged(traced_request(ctx), typed))
ON_TRACEPOINT_THRICE(block_rq_issue, issue, , issued(traced_request(ctx), typed))
/* In the submitter's context; it came with v6.5. */
ON_TRACEPOINT_THRICE(block_io_start, start, , started(rq, again, typed), struct request *rq)
/* In the same context, just before, but it tells only the bio. */
ON_TRACEPOINT_THRICE(block_getrq, start, _getrq,
		     allocated(traced_bio(ctx, argc_block_getrq), again, typed))
ON_TRACEPOINT(block_bio_queue, bio_start, ,
	      bio_submitted(traced_bio(ctx, argc_block_bio_queue), typed))
