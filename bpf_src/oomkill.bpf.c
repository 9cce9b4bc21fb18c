/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "record.bpf.h"
#include "filter.bpf.h"
#include "stack.bpf.h"
#include "drift/memcg.bpf.h"
#include "drift/rss.bpf.h"

#define SIGKILL 9
#define SEND_SIG_PRIV 1ul /* in place of a siginfo: the kernel sends the signal */

/*
 * Linux commit 72ba14deb40a ("mm: update mark_victim tracepoints fields") (in v6.9) gives
 * mark_victim the task and its user instead of the number of its thread.
 */
const volatile __u32 argc_mark_victim;
const volatile __u32 page_size;

struct kill {
	ev_time time;
	__u32 pid; /* what is killed */
	__u32 tid;
	ev_uid uid;
	__u32 trigger_pid; /* who wanted memory */
	ev_cgroup cgroup;
	ev_comm comm;
	ev_comm trigger_comm;
	ev_bytes rss;
	ev_bytes anon;
	ev_bytes file;
	ev_bytes shmem;
	ev_bytes swap;
	ev_bytes page_tables;
	ev_bytes virtual;
	__s32 score_adj;
	ev_oom_constraint constraint;
	ev_number order;
	ev_gfp gfp;
	ev_bytes domain;
	ev_bytes limit;
	ev_bytes used;
	ev_load load;
	bool group;
	ev_dir dir;
	ev_path memcg;
	ev_stack stack;
	ev_user_stack user_stack;
};

RECORDS(kills, kill, 256 << 10, 8192);

/* What oom_kill_process() was told. There is only one, because the kernel does one at a time. */
struct {
	__u32 tid;
	ev_oom_constraint constraint;
	__s32 order;
	__u32 gfp;
	__u64 domain;
} why;

struct sent {
	__u64 task;
	__u32 tid;
};

/*
 * By thread, to which task the kernel has sent SIGKILL last. Other kills than those for want of
 * memory are forgotten in time.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1024);
	__type(key, __u32);
	__type(value, struct sent);
} sent SEC(".maps");

static __always_inline int choosing(struct oom_control *oc)
{
	why.tid = bpf_get_current_pid_tgid();
	why.constraint = BPF_CORE_READ(oc, constraint);
	why.order = BPF_CORE_READ(oc, order);
	why.gfp = BPF_CORE_READ(oc, gfp_mask);
	why.domain = BPF_CORE_READ(oc, totalpages);
	return 0;
}

static __always_inline int sending(int signal, struct kernel_siginfo *info,
				   struct task_struct *task)
{
	__u32 tid = bpf_get_current_pid_tgid();
	struct sent what = { .task = (__u64)task };

	if (signal != SIGKILL || (__u64)info != SEND_SIG_PRIV)
		return 0;
	what.tid = BPF_CORE_READ(task, pid);
	bpf_map_update_elem(&sent, &tid, &what, BPF_ANY);
	return 0;
}

static __always_inline void put_memory(struct kill *ret, struct task_struct *task)
{
	/* A process that is being killed may have given up mm, but not this one. */
	struct mm_struct *mm = BPF_CORE_READ(task, signal, oom_mm) ?: BPF_CORE_READ(task, mm);

	ret->file = pages_of(task, mm, MM_FILEPAGES) * page_size;
	ret->anon = pages_of(task, mm, MM_ANONPAGES) * page_size;
	ret->shmem = pages_of(task, mm, MM_SHMEMPAGES) * page_size;
	ret->swap = pages_of(task, mm, MM_SWAPENTS) * page_size;
	ret->rss = ret->file + ret->anon + ret->shmem;
	ret->virtual = BPF_CORE_READ(mm, total_vm) * page_size;
	ret->page_tables = BPF_CORE_READ(mm, pgtables_bytes.counter);
}

static __always_inline void put_reason(struct kill *ret)
{
	bool known = why.tid == (__u32)bpf_get_current_pid_tgid();

	ret->constraint = known ? why.constraint : EV_NO_NAME;
	ret->order = known ? why.order : EV_NO_NUMBER;
	ret->gfp = known ? why.gfp : EV_NO_NAME;
	ret->domain = known ? why.domain * page_size : EV_NO_BYTES;
}

/*
 * A process that is ending already is marked as well, and gets the reserves without being killed:
 * then nothing has sent it SIGKILL just now.
 */
static __always_inline int marked(void *ctx, __u32 victim)
{
	__u32 tid = bpf_get_current_pid_tgid();
	struct sent *what = bpf_map_lookup_elem(&sent, &tid);
	struct cgroup_subsys_state *state;
	struct kills_draft *draft;
	struct memory_limit limit;
	struct task_struct *task;

	if (!what || what->tid != victim)
		return 0;
	task = (void *)what->task;
	bpf_map_delete_elem(&sent, &tid);
	if (task_filtered_out(task))
		return 0;
	draft = reserve(kills);
	if (!draft)
		return 0;

	struct kill *kill = &draft->record;

	kill->time = kill->load = bpf_ktime_get_boot_ns();
	kill->pid = BPF_CORE_READ(task, tgid);
	kill->tid = victim;
	kill->uid = BPF_CORE_READ(task, cred, uid.val);
	kill->cgroup = cgroup_of_task(task);
	BPF_CORE_READ_STR_INTO(&kill->comm, task, comm);
	kill->score_adj = BPF_CORE_READ(task, signal, oom_score_adj);
	kill->trigger_pid = bpf_get_current_pid_tgid() >> 32;
	bpf_get_current_comm(kill->trigger_comm, sizeof(kill->trigger_comm));
	put_memory(kill, task);
	put_reason(kill);
	state = memory_state(task);
	limit = memory_limit_of(state);
	kill->limit = limit.limit ? limit.limit * page_size : EV_NO_BYTES;
	kill->used = limit.limit ? limit.used * page_size : EV_NO_BYTES;
	kill->group = limit.killed_whole;
	no_part(&kill->dir);
	no_part(&kill->memcg);
	if (state)
		put_cgroup(draft, &kill->dir, &kill->memcg, state);
	put_stacks(draft, ctx);
	submit(kills, draft);
	return 0;
}

static __always_inline __u32 marked_tid(const unsigned long long *ctx)
{
	struct task_struct *task = (void *)ctx[0];

	return argc_mark_victim == 1 ? ctx[0] : BPF_CORE_READ(task, pid);
}

/* The programs that every rung has, in a section of that kind. */
#define ON_VICTIMS(rung, kind)                                                                 \
	SEC(kind "/signal_generate")                                                           \
	int BPF_PROG(kill__##rung##__send, int signal, struct kernel_siginfo *info,            \
		     struct task_struct *task)                                                 \
	{                                                                                      \
		return sending(signal, info, task);                                            \
	}                                                                                      \
	SEC(kind "/mark_victim")                                                               \
	int kill__##rung##__mark(unsigned long long *ctx)                                      \
	{                                                                                      \
		return marked(ctx, marked_tid(ctx));                                           \
	}

SEC("fentry/oom_kill_process")
int BPF_PROG(kill__fentry__why, struct oom_control *oc)
{
	return choosing(oc);
}
ON_VICTIMS(fentry, "tp_btf")

SEC("kprobe/oom_kill_process")
int BPF_KPROBE(kill__kprobe__why, struct oom_control *oc)
{
	return choosing(oc);
}
ON_VICTIMS(kprobe, "tp_btf")

ON_VICTIMS(tp_btf, "tp_btf")
ON_VICTIMS(raw_tp, "raw_tp")
