/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "record.bpf.h"
#include "filter.bpf.h"
#include "sample.bpf.h"
#include "hist.bpf.h"
#include "pair.bpf.h"
#include "drift/block.bpf.h"

#define UNWANTED 0 /* the start of a request whose submitter the filters reject */

const volatile bool queued; /* time from the insert, not from the issue */
const volatile bool per_disk;
const volatile bool per_operation;
const volatile __u32 filter_disk;

struct io {
	ev_dev disk;
	ev_operation operation;
};

PAIRS(starts, __u64, __u64, 16384);
HISTOGRAMS(latencies, io, 16384);

static __always_inline bool filters_given(void)
{
	return filter_pid || filter_tid || filter_uid >= 0 || filter_comm[0] || filter_cgroup;
}

/*
 * Judge who submits: the cgroup that the request is charged to, or the current task where that
 * cannot tell, because the io controller stops above the wanted cgroup or is not in its hierarchy.
 */
static __always_inline bool submitter_filtered_out(struct request *rq)
{
	struct cgroup *owner = BPF_CORE_READ(rq, bio, bi_blkg, blkcg, css.cgroup);

	if (filter_cgroup && owner && !BPF_CORE_READ(owner, root, hierarchy_id) &&
	    BPF_CORE_READ(owner, level) >= filter_cgroup_level)
		return cgroup_filtered_out(owner) ||
		       filtered_out_beside_cgroup(bpf_get_current_pid_tgid());
	return filtered_out(bpf_get_current_pid_tgid());
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

static __always_inline int began(struct request *rq, bool issued, bool typed)
{
	bool starts_now = issued && !queued;
	__u64 key = (__u64)rq;
	__u64 now;

	if (request_sampled_out(rq, typed) ||
	    (filter_disk && request_device(rq, typed) != filter_disk))
		return 0;
	now = bpf_ktime_get_ns();
	if (filters_given()) {
		__u64 *start = bpf_map_lookup_elem(&starts, &key);

		/* Judged at its insert: at the issue anybody may be running. */
		if (start) {
			if (starts_now && *start != UNWANTED)
				*start = now;
			return 0;
		}
		if (submitter_filtered_out(rq))
			now = UNWANTED;
	}
	/* A requeued request comes here again. */
	pair_begin(starts, &key, &now, starts_now ? BPF_ANY : BPF_NOEXIST);
	return 0;
}

static __always_inline int ended(struct request *rq, __u32 bytes, bool typed)
{
	__u64 key = (__u64)rq, start, now = bpf_ktime_get_ns();
	struct io io = {};

	/* The length is reduced after the tracepoint: what is left of a part comes back. */
	if (bytes < READ(typed, rq, __data_len) || request_sampled_out(rq, typed) ||
	    !pair_end(starts, &key, &start) || start == UNWANTED)
		return 0;
	if (per_disk)
		io.disk = request_device(rq, typed);
	if (per_operation)
		io.operation = READ(typed, rq, cmd_flags) & REQ_OP_MASK;
	hist_add(latencies, &io, now - start);
	return 0;
}

static __always_inline int merged(struct request *rq)
{
	bpf_map_delete_elem(&starts, &(__u64){ (__u64)rq });
	return 0;
}

/* Ends come first, because programs are attached in this order: no begin is left without. */

SEC("tp_btf/block_rq_complete")
int BPF_PROG(complete__tp_btf, struct request *rq, int error, unsigned int bytes)
{
	return ended(rq, bytes, true);
}

SEC("raw_tp/block_rq_complete")
int BPF_PROG(complete__raw_tp, struct request *rq, int error, unsigned int bytes)
{
	return ended(rq, bytes, false);
}

SEC("tp_btf/block_rq_merge")
int BPF_PROG(queue__tp_btf__merge)
{
	return merged(traced_request(ctx));
}

SEC("tp_btf/block_rq_insert")
int BPF_PROG(queue__tp_btf__insert)
{
	return began(traced_request(ctx), false, true);
}

SEC("raw_tp/block_rq_merge")
int BPF_PROG(queue__raw_tp__merge)
{
	return merged(traced_request(ctx));
}

SEC("raw_tp/block_rq_insert")
int BPF_PROG(queue__raw_tp__insert)
{
	return began(traced_request(ctx), false, false);
}

SEC("tp_btf/block_rq_issue")
int BPF_PROG(issue__tp_btf)
{
	return began(traced_request(ctx), true, true);
}

SEC("raw_tp/block_rq_issue")
int BPF_PROG(issue__raw_tp)
{
	return began(traced_request(ctx), true, false);
}
