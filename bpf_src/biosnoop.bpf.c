/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "record.bpf.h"
#include "pair.bpf.h"
#include "read.bpf.h"
#include "request.bpf.h"

#define EINPROGRESS 115

const volatile bool failed_only;
const volatile __u64 least_ns;

struct io {
	ev_time time; /* of the end; of the start until then */
	ev_comm comm;
	__u32 pid;
	__u32 tid;
	__u32 ppid;
	ev_uid uid;
	ev_cgroup cgroup; /* that wrote the data, or else that of the process */
	ev_disk disk;
	ev_operation operation;
	ev_request_flags flags;
	__u64 sector;
	__u32 bytes;
	__u32 tries; /* how often it was issued to the device; bios are not */
	ev_duration queued; /* from the start to the first issue */
	ev_duration latency; /* from the first issue, or a bio's start, to the end of the last part */
	ev_ret error;
};

RING(ios, io, 4 << 20);

/*
 * By the address of the request; where block_getrq tells the start, by that of the bio until the
 * first issue; of a disk without requests, by that of the bio. User space shows those that remain
 * at the end.
 */
PAIRS(begun, __u64, struct io, 16384);
static bool by_bio;
/* Ends that no program was run for. */
__u64 ends_lost;
__u64 start_by_stand_in;

/* By a stand-in's look: what was issued, or is another's, belongs to a request that has ended. */
static __always_inline bool is_known(__u64 key)
{
	struct io *io = bpf_map_lookup_elem(&begun, &key);

	return io && !io->tries && io->tid == (__u32)bpf_get_current_pid_tgid();
}

static __always_inline void remember(__u64 key, struct io *io, bool again)
{
	/* Neither begins again before it has ended. */
	if (bpf_map_lookup_elem(&begun, &key) && !bpf_map_delete_elem(&begun, &key))
		__sync_fetch_and_add(&ends_lost, 1);
	if (!again)
		pair_begin(begun, &key, io, BPF_NOEXIST);
	else if (pair_stand_in(begun, &key, io))
		__sync_fetch_and_add(&start_by_stand_in, 1);
}

/* Who submits is the task that runs now. BIO is NULL where there is none. */
static __always_inline int began(__u64 key, struct gendisk *disk, struct bio *bio, __u32 flags,
				 bool again, bool typed)
{
	struct cgroup *charged = charged_cgroup(bio, typed);
	__u64 pid_tgid = bpf_get_current_pid_tgid();
	struct io io;

	if (again && is_known(key))
		return 0;
	__builtin_memset(&io, 0, sizeof(io));
	copy_disk_name(&io.disk, disk, typed);
	if (device_filtered_out(io.disk, bio, typed) || submitter_filtered_out(charged))
		return 0;
	io.time = bpf_ktime_get_boot_ns();
	bpf_get_current_comm(io.comm, sizeof(io.comm));
	io.pid = pid_tgid >> 32;
	io.tid = pid_tgid;
	io.ppid = current_ppid(typed);
	io.uid = bpf_get_current_uid_gid();
	io.cgroup = submitter_cgroup(charged, typed);
	io.operation = flags & REQ_OP_MASK;
	io.flags = flags;
	io.sector = READ(typed, bio, bi_iter.bi_sector);
	io.bytes = READ(typed, bio, bi_iter.bi_size);
	io.queued = EV_NO_DURATION;
	io.latency = EV_NO_DURATION;
	io.error = -EINPROGRESS;
	remember(key, &io, again);
	return 0;
}

static __always_inline int started(struct request *rq, bool again, bool typed)
{
	return began((__u64)rq, request_disk(rq, typed), READ(typed, rq, bio),
		     READ(typed, rq, cmd_flags), again, typed);
}

static __always_inline int bio_started(struct bio *bio, bool again, bool typed)
{
	return began((__u64)bio, bio_disk(bio, typed), bio, READ(typed, bio, bi_opf), again, typed);
}

static __always_inline int allocated(struct bio *bio, bool again, bool typed)
{
	if (!by_bio)
		by_bio = true;
	return bio_started(bio, again, typed);
}

/* What has no start: the kernel's own flushes and, by getrq, all that is not made for a bio. */
static __always_inline bool starts_by_issue(struct request *rq, bool typed)
{
	return (READ(typed, rq, cmd_flags) & REQ_OP_MASK) == REQ_OP_FLUSH ||
	       (by_bio && READ(typed, rq, end_io));
}

static __always_inline int issued(struct request *rq, bool again, bool typed)
{
	__u64 key = (__u64)rq;
	struct io *io = bpf_map_lookup_elem(&begun, &key);

	if (!io) {
		struct io moved;

		if (by_bio && take_by_bio(begun, rq, &moved, typed))
			remember(key, &moved, false);
		else if (starts_by_issue(rq, typed))
			started(rq, false, typed);
		io = bpf_map_lookup_elem(&begun, &key);
		if (!io)
			return 0;
	}
	if (again && io->tries)
		return 0;
	io->tries++;
	/* Issued again: it was sent back, or what is left of it follows. */
	if (io->queued == EV_NO_DURATION) {
		io->queued = bpf_ktime_get_boot_ns() - io->time;
		io->sector = request_sector(rq, typed);
		io->bytes = READ(typed, rq, __data_len);
	}
	return 0;
}

static __always_inline void finish(struct io *io, int error)
{
	__u64 now = bpf_ktime_get_boot_ns();

	io->latency = now - io->time - (io->queued == EV_NO_DURATION ? 0 : io->queued);
	io->time = now;
	if (io->error == -EINPROGRESS)
		io->error = request_error(error);
	if (io->latency >= least_ns && (io->error || !failed_only))
		put(ios, io);
}

static __always_inline int bio_ended(struct bio *bio, int error, bool typed)
{
	struct io io;

	if (pair_end(begun, &(__u64){ (__u64)bio }, &io))
		finish(&io, error);
	return 0;
}

static __always_inline int ended(struct request *rq, int error, __u32 bytes, bool typed)
{
	__u64 key = (__u64)rq;
	struct io *part, io;

	/* The length is reduced after the tracepoint: what is left of a part comes back. */
	if (bytes < READ(typed, rq, __data_len)) {
		part = bpf_map_lookup_elem(&begun, &key);
		if (part && error && part->error == -EINPROGRESS)
			part->error = request_error(error);
		return 0;
	}
	/* A flush that became one of the kernel's own was never issued. */
	if (!pair_end(begun, &key, &io) && !(by_bio && !bytes && take_by_bio(begun, rq, &io, typed)))
		return 0;
	finish(&io, error);
	return 0;
}

static __always_inline int merged(struct request *rq, bool typed)
{
	struct io io;

	if (bpf_map_delete_elem(&begun, &(__u64){ (__u64)rq }) && by_bio)
		take_by_bio(begun, rq, &io, typed);
	return 0;
}

/* What comes last is first, because programs are attached in this order: none of it is missed. */

ON_TRACEPOINT_THRICE(block_rq_complete, complete, , ended(rq, error, bytes, typed),
		     struct request *rq, int error, unsigned int bytes)
ON_TRACEPOINT_THRICE(block_rq_merge, issue, __merge, merged(traced_request(ctx), typed))
ON_TRACEPOINT_THRICE(block_rq_issue, issue, , issued(traced_request(ctx), again, typed))
/* In the submitter's context; it came with v6.5. */
ON_TRACEPOINT_THRICE(block_io_start, start, , started(rq, again, typed), struct request *rq)
/* In the same context, just before, but it tells only the bio. */
ON_TRACEPOINT_THRICE(block_getrq, start, _getrq, 
		     allocated(traced_bio(ctx, argc_block_getrq), again, typed))
ON_BIOS(bio_started, bio_ended, BIOS_IN_FRONT_MOST)
