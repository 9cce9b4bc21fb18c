/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "record.bpf.h"
#include "count.bpf.h"
#include "pair.bpf.h"
#include "read.bpf.h"
#include "request.bpf.h"

#define EINPROGRESS 115
#define MD_MAJOR 9
#define BIOS_MOST 16 /* of a request, into which bios of a RAID 0 may have been merged */

const volatile bool count_only;
const volatile bool failed_only;
const volatile __u64 least_ns;

struct flush {
	ev_time time; /* of the start */
	__u32 pid;
	__u32 tid;
	ev_uid uid;
	ev_comm comm;
	ev_cgroup cgroup; /* that wrote the data, or else that of the process */
	ev_disk device;
	__u32 bytes; /* that are written behind the flush, by the same bio */
	ev_duration duration; /* until these are written, too */
	ev_ret error;
};

RING(flushes, flush, 1 << 20);

/* By the address of the bio. User space shows those that remain at the end. */
PAIRS(begun, __u64, struct flush, 4096);
/* Ends that no program was run for. */
__u64 ends_lost;
__u64 bio_start_by_stand_in;

struct flusher {
	ev_cgroup cgroup;
	__u32 pid;
	__u32 _padding;
	ev_comm comm;
	ev_disk device;
};

struct flushed {
	ev_count count;
	__u64 failed;
	ev_duration total;
	ev_longest longest;
};

TOP(flushers, flusher, flushed, 4096);

static __always_inline bool is_flush(struct bio *bio, bool typed)
{
	__u32 bit = bpf_core_enum_value(enum req_flag_bits, __REQ_PREFLUSH);

	return READ(typed, bio, bi_opf) >> bit & 1;
}

/* Those that can have partitions of the old kind have a major number of their own: md_d0. */
static __always_inline bool is_array(struct gendisk *disk, const char *name, bool typed)
{
	return READ(typed, disk, major) == MD_MAJOR ||
	       (name[0] == 'm' && name[1] == 'd' && name[2] == '_' && name[3] == 'd');
}

/*
 * This is asked once for a bio that a file system, or whoever, gives to an array. If the array
 * splits it, md_flush_request() is called for each part.
 */
static __always_inline int began(struct bio *bio, bool again, bool typed)
{
	struct cgroup *charged;
	struct gendisk *disk;
	__u64 key = (__u64)bio;
	struct flush flush;

	if (!is_flush(bio, typed))
		return 0;
	__builtin_memset(&flush, 0, sizeof(flush));
	disk = bio_disk(bio, typed);
	copy_disk_name(&flush.device, disk, typed);
	if (!is_array(disk, flush.device, typed) || device_filtered_out(flush.device, bio, typed))
		return 0;
	charged = charged_cgroup(bio, typed);
	if (submitter_filtered_out(charged))
		return 0;
	put_current_task(&flush, bpf_get_current_pid_tgid());
	if (with_cgroup)
		flush.cgroup = submitter_cgroup(charged, typed);
	flush.bytes = READ(typed, bio, bi_iter.bi_size);
	flush.duration = EV_NO_DURATION;
	flush.error = -EINPROGRESS;
	if (again) {
		if (pair_stand_in(begun, &key, &flush))
			__sync_fetch_and_add(&bio_start_by_stand_in, 1);
		return 0;
	}
	/* It does not begin again before it has ended. */
	if (bpf_map_lookup_elem(&begun, &key))
		__sync_fetch_and_add(&ends_lost, 1);
	pair_begin(begun, &key, &flush, BPF_ANY);
	return 0;
}

/* Count the flush instead of showing it. */
static __always_inline void count_flush(const struct flush *flush)
{
	struct flusher flusher;
	struct flushed *flushed;

	__builtin_memset(&flusher, 0, sizeof(flusher));
	flusher.cgroup = flush->cgroup;
	flusher.pid = flush->pid;
	__builtin_memcpy(flusher.comm, flush->comm, sizeof(flusher.comm));
	__builtin_memcpy(flusher.device, flush->device, sizeof(flusher.device));
	flushed = top_of(flushers, &flusher);
	if (!flushed)
		return;
	add(flushed->count, 1);
	add(flushed->failed, flush->error < 0);
	add(flushed->total, flush->duration);
	keep_longest(flushed->longest, flush->duration);
}

static __always_inline int ended(struct bio *bio, int error, bool typed)
{
	struct flush flush;

	if (!pair_end(begun, &(__u64){ (__u64)bio }, &flush))
		return 0;
	flush.duration = bpf_ktime_get_boot_ns() - flush.time;
	flush.error = request_error(error);
	if (flush.duration < least_ns || (failed_only && !flush.error))
		return 0;
	if (count_only)
		count_flush(&flush);
	else
		put(flushes, &flush);
	return 0;
}

ON_BIOS(began, ended, BIOS_MOST)
