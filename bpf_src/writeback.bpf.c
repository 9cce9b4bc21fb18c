/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "record.bpf.h"
#include "count.bpf.h"
#include "disk.bpf.h"
#include "filter.bpf.h"
#include "pair.bpf.h"
#include "read.bpf.h"
#include "drift/writeback.bpf.h"

const volatile bool count_only;
const volatile bool with_requester;
const volatile bool with_empty; /* rounds in which nothing was written */
const volatile __u64 least_ns;

/* A process that has asked for writeback. Its pid is EV_NO_RESULT where nobody is known to have. */
struct requester {
	ev_ret pid;
	ev_comm comm;
	__u64 wanted; /* a bool */
	struct writeback_identity whose;
};

/*
 * A flusher works in rounds until all that it was asked for is written. A round ends after some
 * 100 ms, unless somebody waits for all of it.
 */
struct round {
	ev_time time; /* of the end; of the start until then */
	ev_disk device;
	ev_disk bdi; /* the kernel's name for it: the disk's major:minor, or the same as the device */
	ev_disk fs; /* that alone was written, by the name of its device, or "-" */
	ev_writeback_reason reason;
	__u32 pid; /* of the flusher */
	ev_comm comm;
	ev_ret rpid; /* of the requester, or EV_NO_RESULT */
	ev_comm rcomm;
	ev_cgroup cgroup; /* whose pages were written */
	ev_ret pages;
	ev_duration duration;
	__u64 _work;   /* the address of its struct wb_writeback_work */
	__s64 _budget; /* how many pages it was to write when it began */
};

RING(rounds, round, 1 << 20);

/* By the flusher's thread. User space shows the rounds that remain at the end. */
PAIRS(begun, __u32, struct round, 1024);

/* Who has asked: by the device, and by the address of the work or one of these numbers. */
enum { BACKGROUND = 1, ALL };

struct request_key {
	__u64 wb, work;
};

PAIRS(requests, struct request_key, struct requester, 4096);

/* What a flusher's thread was asked for, and by whom, until it has done it. */
struct order {
	__u64 request; /* the second part of its key */
	__u64 work;
	struct requester requester;
};

PAIRS(orders, __u32, struct order, 1024);

struct device_reason {
	ev_disk device;
	ev_writeback_reason reason;
	__u32 _padding;
	ev_comm rcomm;
	ev_ret rpid;
	ev_cgroup cgroup;
};

struct written {
	ev_count rounds;
	__u64 pages;
	ev_longest longest;
};

TOP(devices, device_reason, written, 4096);

static __always_inline __u32 current_tid(void)
{
	return bpf_get_current_pid_tgid();
}

static __always_inline bool is_for(const struct requester *requester,
				   const struct writeback_identity *whose)
{
	return requester->whose.bdi == whose->bdi &&
	       requester->whose.memory_cgroup == whose->memory_cgroup &&
	       requester->whose.io_cgroup == whose->io_cgroup;
}

/* Forget what was asked of another one that has been at the same address. */
static __always_inline void forget_former(const struct request_key *key,
					  const struct writeback_identity *whose)
{
	struct requester *requester = bpf_map_lookup_elem(&requests, key);

	if (requester && !is_for(requester, whose))
		bpf_map_delete_elem(&requests, key);
}

static __always_inline int asked(struct bdi_writeback *wb, __u64 work, __u64 flags, bool again,
				 bool typed)
{
	struct request_key key = { (__u64)wb, work };
	__u64 pid_tgid = bpf_get_current_pid_tgid();
	struct requester requester = { .whose = writeback_identity(wb, typed) };

	forget_former(&key, &requester.whose);
	requester.pid = pid_tgid >> 32;
	bpf_get_current_comm(requester.comm, sizeof(requester.comm));
	requester.wanted = !filtered_out(pid_tgid);
	if (again)
		pair_stand_in(requests, &key, &requester);
	else
		pair_begin(requests, &key, &requester, flags);
	return 0;
}

/*
 * A flusher is woken, by sync() or by who looks for free memory, to write all that is dirty. It
 * will find that in its state, and no tracepoint of its own tells who has asked. The first who
 * does so counts.
 */
static __always_inline int woken(struct pool_workqueue *pwq, struct work_struct *work, bool again,
				 bool typed)
{
	struct bdi_writeback *wb = woken_writeback(pwq, work, typed);

	return wb ? asked(wb, ALL, BPF_NOEXIST, again, false) : 0;
}

/* The thread begins to do what REQUESTED names, for the given work. */
static __always_inline void take_order(struct bdi_writeback *wb, struct request_key *requested,
				       __u64 work, bool typed)
{
	struct writeback_identity whose = writeback_identity(wb, typed);
	struct order order = { requested->work, work };
	__u32 tid = current_tid();

	if (pair_end(requests, requested, &order.requester) && is_for(&order.requester, &whose))
		pair_begin(orders, &tid, &order, BPF_ANY);
}

static __always_inline int executed(struct bdi_writeback *wb, struct wb_writeback_work *work,
				    bool typed)
{
	struct request_key key = { (__u64)wb, (__u64)work };

	take_order(wb, &key, (__u64)work, typed);
	return 0;
}

static __always_inline int all_done(void)
{
	__u32 tid = current_tid();

	bpf_map_delete_elem(&orders, &tid);
	return 0;
}

/* Who asks for work that is not queued: the number of that request, or 0 if nobody does. */
static __always_inline __u64 request_beside_queue(__u32 reason, struct super_block *sb)
{
	if (reason == bpf_core_enum_value(enum wb_reason, WB_REASON_BACKGROUND))
		return BACKGROUND;
	if (sb || reason == bpf_core_enum_value(enum wb_reason, WB_REASON_PERIODIC))
		return 0;
	return ALL;
}

/* The order that WORK does. What is not queued is often at the same place of the stack. */
static __always_inline struct order *order_for(__u64 work, __u64 beside_queue)
{
	__u32 tid = current_tid();
	struct order *order = bpf_map_lookup_elem(&orders, &tid);

	if (!order || order->work != work)
		return NULL;
	return order->request == work || order->request == beside_queue ? order : NULL;
}

/* Fill in who has asked for it; return whether that process passes the filters. */
static __always_inline bool put_requester(struct round *round, struct bdi_writeback *wb,
					  struct super_block *sb, bool typed)
{
	struct request_key key = { (__u64)wb, request_beside_queue(round->reason, sb) };
	struct order *order = order_for(round->_work, key.work);

	round->rpid = EV_NO_RESULT;
	round->rcomm[0] = '-';
	if (!order && key.work) {
		take_order(wb, &key, round->_work, typed);
		order = order_for(round->_work, key.work);
	}
	if (!order)
		return false;
	round->rpid = order->requester.pid;
	__builtin_memcpy(round->rcomm, order->requester.comm, sizeof(round->rcomm));
	return order->requester.wanted;
}

/* Judge the flusher, which is the current task, but by the cgroup whose pages it writes. */
static __always_inline bool flusher_filtered_out(struct cgroup *cgroup)
{
	__u64 pid_tgid = bpf_get_current_pid_tgid();

	if (filter_cgroup && cgroup)
		return filtered_out_beside_cgroup(pid_tgid) || cgroup_filtered_out(cgroup);
	return filtered_out(pid_tgid);
}

static __always_inline void put_file_system(struct round *round, struct super_block *sb, bool typed)
{
	if (!sb)
		round->fs[0] = '-';
	else if (typed)
		__builtin_memcpy(round->fs, sb->s_id, sizeof(round->fs));
	else
		BPF_CORE_READ_INTO(&round->fs, sb, s_id);
}

static __always_inline bool is_known(__u32 tid, __u64 work, __s64 budget)
{
	struct round *round = bpf_map_lookup_elem(&begun, &tid);

	return round && round->_work == work && round->_budget == budget;
}

static __always_inline int started(struct bdi_writeback *wb, struct wb_writeback_work *work,
				   bool again, bool typed)
{
	struct cgroup *cgroup = writeback_cgroup(wb, typed);
	struct super_block *sb = READ(typed, work, sb);
	__s64 budget = READ(typed, work, nr_pages);
	__u32 tid = current_tid();
	struct round round;
	bool wanted;

	if (again && is_known(tid, (__u64)work, budget))
		return 0;
	__builtin_memset(&round, 0, sizeof(round));
	put_writeback_device(&round.device, wb, typed);
	if (disk_filtered_out(round.device))
		return 0;
	round._work = (__u64)work;
	round._budget = budget;
	round.reason = READ(typed, work, reason);
	wanted = put_requester(&round, wb, sb, typed);
	if (!wanted && flusher_filtered_out(cgroup))
		return 0;
	put_bdi_name(&round.bdi, wb, typed);
	put_file_system(&round, sb, typed);
	round.pid = bpf_get_current_pid_tgid() >> 32;
	bpf_get_current_comm(round.comm, sizeof(round.comm));
	if (with_cgroup)
		round.cgroup = cgroup ? typed_cgroup_id(cgroup, typed) : bpf_get_current_cgroup_id();
	round.pages = EV_NO_RESULT;
	round.duration = EV_NO_DURATION;
	round.time = bpf_ktime_get_boot_ns();
	if (again)
		pair_stand_in(begun, &tid, &round);
	else
		pair_begin(begun, &tid, &round, BPF_ANY);
	return 0;
}

/* Count the round instead of showing it. */
static __always_inline void count_round(const struct round *round)
{
	struct device_reason key;
	struct written *written;

	__builtin_memset(&key, 0, sizeof(key));
	__builtin_memcpy(key.device, round->device, sizeof(key.device));
	key.reason = round->reason;
	key.cgroup = round->cgroup;
	if (with_requester) {
		key.rpid = round->rpid;
		__builtin_memcpy(key.rcomm, round->rcomm, sizeof(key.rcomm));
	}
	written = top_of(devices, &key);
	if (!written)
		return;
	add(written->rounds, 1);
	add(written->pages, round->pages);
	keep_longest(written->longest, round->duration);
}

static __always_inline int ended(struct wb_writeback_work *work, bool typed)
{
	__u64 now = bpf_ktime_get_boot_ns();
	__u32 tid = current_tid();
	struct round round;

	if (!pair_end(begun, &tid, &round) || round._work != (__u64)work)
		return 0;
	round.pages = round._budget - READ(typed, work, nr_pages);
	round.duration = now - round.time;
	round.time = now;
	if (round.duration < least_ns || (!round.pages && !with_empty))
		return 0;
	if (count_only)
		count_round(&round);
	else
		put(rounds, &round);
	return 0;
}

#define WORK struct bdi_writeback *wb, struct wb_writeback_work *work

/* Programs are attached in this order. The ends come first, so that no begin lacks its end. */
ON_TRACEPOINT_THRICE(writeback_written, round, __written, ended(work, typed), WORK)
ON_TRACEPOINT_THRICE(writeback_start, round, , started(wb, work, again, typed), WORK)

ON_TRACEPOINT_THRICE(writeback_pages_written, request, __done, all_done(), long pages)
ON_TRACEPOINT_THRICE(writeback_exec, request, __exec, executed(wb, work, typed), WORK)
ON_TRACEPOINT_THRICE(writeback_queue, request, ,
		     asked(wb, (__u64)work, BPF_ANY, again, typed), WORK)
/* A process has made more pages dirty than there should be. */
ON_TRACEPOINT_THRICE(writeback_wake_background, request, __background,
		     asked(wb, BACKGROUND, BPF_ANY, again, typed), struct bdi_writeback *wb)
ON_TRACEPOINT_THRICE(workqueue_queue_work, request, __all, woken(pwq, work, again, typed),
		     int cpu, struct pool_workqueue *pwq, struct work_struct *work)
