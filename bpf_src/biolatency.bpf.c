/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "record.bpf.h"
#include "sample.bpf.h"
#include "hist.bpf.h"
#include "pair.bpf.h"
#include "request.bpf.h"

#define UNWANTED 0 /* the time of a request whose submitter the filters reject */

const volatile bool queued; /* time from the insert, not from the issue */
const volatile bool per_disk;
const volatile bool per_operation;

struct io {
	ev_disk disk;
	ev_operation operation;
	__u32 _padding;
	ev_cgroup cgroup;
};

struct start {
	__u64 time;
	ev_cgroup cgroup;
};

PAIRS(starts, __u64, struct start, 16384);
HISTOGRAMS(latencies, io, 16384);

static __always_inline bool submitter_matters(void)
{
	return filter_pid || filter_listed || filter_tid || filter_uid >= 0 || filter_comm[0] ||
	       filter_cgroup || with_cgroup;
}

/* Both ends of a request decide alike: start_time_ns changes only by merges, before the issue. */
static __always_inline bool request_sampled_out(struct request *rq, bool typed)
{
	__u64 address;

	if (sample_rate == 1)
		return false;
	/* A copy, because the verifier lets nobody calculate with a pointer. */
	bpf_probe_read_kernel(&address, sizeof(address), &rq);
	return sampled_out(address + READ(typed, rq, start_time_ns));
}

static __always_inline void remember(__u64 key, const struct start *start, bool again, __u64 flags)
{
	if (again)
		pair_stand_in(starts, &key, start);
	else
		pair_begin(starts, &key, start, flags);
}

static __always_inline int began(struct request *rq, bool issued, bool again, bool typed)
{
	bool starts_now = issued && !queued;
	struct start start = {};
	__u64 key = (__u64)rq;
	ev_disk name;

	if (request_sampled_out(rq, typed))
		return 0;
	copy_disk_name(&name, request_disk(rq, typed), typed);
	if (device_filtered_out(name, READ(typed, rq, bio), typed))
		return 0;
	start.time = bpf_ktime_get_ns();
	if (submitter_matters()) {
		struct start *known = bpf_map_lookup_elem(&starts, &key);
		struct cgroup *charged;

		/* Judged at its insert: at the issue anybody may be running. */
		if (known) {
			if (starts_now && known->time != UNWANTED)
				known->time = start.time;
			return 0;
		}
		charged = charged_cgroup(READ(typed, rq, bio), typed);
		if (submitter_filtered_out(charged))
			start.time = UNWANTED;
		if (with_cgroup)
			start.cgroup = submitter_cgroup(charged, typed);
	}
	/* A requeued request comes here again. */
	remember(key, &start, again, starts_now ? BPF_ANY : BPF_NOEXIST);
	return 0;
}

/* The end looks only whether there was a start: the sector has changed by then. */
static __always_inline bool bio_sampled_out(struct bio *bio, bool typed)
{
	__u64 milliseconds = bpf_ktime_get_ns() >> 20; /* nearly: stand-ins decide alike */

	return sampled_out(READ(typed, bio, bi_iter.bi_sector) + milliseconds);
}

static __always_inline int bio_began(struct bio *bio, bool again, bool typed)
{
	struct cgroup *charged = NULL;
	struct start start = {};
	ev_disk name;

	if (bio_sampled_out(bio, typed))
		return 0;
	copy_disk_name(&name, bio_disk(bio, typed), typed);
	if (device_filtered_out(name, bio, typed))
		return 0;
	if (submitter_matters()) {
		charged = charged_cgroup(bio, typed);
		if (submitter_filtered_out(charged))
			return 0;
	}
	if (with_cgroup)
		start.cgroup = submitter_cgroup(charged, typed);
	start.time = bpf_ktime_get_ns();
	remember((__u64)bio, &start, again, BPF_ANY);
	return 0;
}

static __always_inline void add_bio(__u64 latency, __u64 cgroup, __u32 operation)
{
	struct io io = { .cgroup = cgroup };

	/* Bios are traced of one disk only, and may have been sent on to another. */
	if (per_disk)
		copy_filtered_disk_name(&io.disk);
	if (per_operation)
		io.operation = operation;
	hist_add(latencies, &io, latency);
}

static __always_inline int bio_ended(struct bio *bio, int error, bool typed)
{
	struct start start;

	if (pair_end(starts, &(__u64){ (__u64)bio }, &start))
		add_bio(bpf_ktime_get_ns() - start.time, start.cgroup,
			READ(typed, bio, bi_opf) & REQ_OP_MASK);
	return 0;
}

static __always_inline int ended(struct request *rq, __u32 bytes, bool typed)
{
	__u64 key = (__u64)rq, now = bpf_ktime_get_ns();
	struct start start;
	struct io io = {};

	/* The length is reduced after the tracepoint: what is left of a part comes back. */
	if (bytes < READ(typed, rq, __data_len) || request_sampled_out(rq, typed) ||
	    !pair_end(starts, &key, &start) || start.time == UNWANTED)
		return 0;
	io.cgroup = start.cgroup;
	if (per_disk)
		copy_disk_name(&io.disk, request_disk(rq, typed), typed);
	if (per_operation)
		io.operation = READ(typed, rq, cmd_flags) & REQ_OP_MASK;
	hist_add(latencies, &io, now - start.time);
	return 0;
}

static __always_inline int merged(struct request *rq)
{
	bpf_map_delete_elem(&starts, &(__u64){ (__u64)rq });
	return 0;
}

/* Ends come first, because programs are attached in this order: no begin is left without. */

ON_TRACEPOINT_THRICE(block_rq_complete, complete, , ended(rq, bytes, typed),
		     struct request *rq, int error, unsigned int bytes)
ON_TRACEPOINT_THRICE(block_rq_merge, queue, __merge, merged(traced_request(ctx)))
ON_TRACEPOINT_THRICE(block_rq_insert, queue, __insert,
		     began(traced_request(ctx), false, again, typed))
ON_TRACEPOINT_THRICE(block_rq_issue, issue, , began(traced_request(ctx), true, again, typed))
ON_BIOS(bio_began, bio_ended, 16)
