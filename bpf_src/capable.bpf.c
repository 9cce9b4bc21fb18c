/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "record.bpf.h"
#include "count.bpf.h"
#include "filter.bpf.h"
#include "pair.bpf.h"
#include "read.bpf.h"
#include "repeat.bpf.h"
#include "stack.bpf.h"
#include "syscall.bpf.h"

/*
 * Bits of the argument opts, which Linux commit c1a85a00ea66 ("LSM: generalize flag passing to
 * security_capable") (in v5.1) put in place of the flag audit.
 */
#define CAP_OPT_NOAUDIT 0x2
#define CAP_OPT_INSETID 0x4
#define OPTS_UNKNOWN ~0u

/* Of which checks only the first one is shown. */
enum unique {
	UNIQUE_IF_UNKNOWN, /* of those by the same program, if it is not known which are audited */
	UNIQUE_OFF,
	UNIQUE_PID,
	UNIQUE_CGROUP,
};

const volatile __u64 wanted_capabilities; /* a bit for each; 0 for all */
const volatile bool with_unaudited;
const volatile bool denied_only;
const volatile bool allowed_only;
const volatile bool summed_up;
const volatile __u32 unique;

struct check {
	ev_time time;
	__u32 pid;
	__u32 tid;
	ev_uid uid;
	ev_capability cap;
	ev_comm comm;
	ev_ret ret;
	ev_number audit;
	ev_number insetid;
	ev_user_ns ns;
	__u32 ns_level; /* 0 for the initial namespace */
	ev_syscall syscall;
	ev_cgroup cgroup;
	ev_stack stack;
	ev_user_stack user_stack;
};

RECORDS(checks, check, 1 << 20, 2048);

/* Checks that are equal for --unique. */
struct sort {
	__u64 cgroup;
	__u64 began; /* tells the process from earlier ones with the same id */
	__u64 execs; /* tells the program from those that the process ran before */
	__u64 kernel_stack;
	__u64 user_stack;
	__u32 pid;
	__u32 cap;
	__u32 opts;
	__u32 ns;
	__s32 ret;
	__u32 _padding;
};

REPEATS(repeats, sort, 8192);

struct use {
	ev_cgroup cgroup;
	ev_capability cap;
	__u32 _padding;
};

struct verdicts {
	ev_count denied;
	ev_count allowed;
};

TOP(uses, use, verdicts, 4096);

/* What a check asks for, and where. */
struct question {
	__u64 kernel_stack; /* numbers, for a struct sort */
	__u64 user_stack;
	__u32 cap;
	__u32 opts; /* or OPTS_UNKNOWN */
	__u32 ns;
	__u32 ns_level;
};

/* A check that has begun, and the stacks that are kept until its end. */
struct begin {
	struct question question;
	ev_stack stack;
	ev_user_stack user_stack;
};

/* By thread. */
PAIRS(begun, __u32, struct begin, 4096);
KEPT_STACKS(stacks, __u32, 1024);

static __always_inline bool capability_filtered_out(__u32 cap)
{
	return wanted_capabilities && (cap > 63 || !(wanted_capabilities >> cap & 1));
}

/* True for a check that is not wanted, whatever the answer is. */
static __always_inline bool unwanted(__u32 cap, __u32 opts)
{
	bool is_unaudited = opts != OPTS_UNKNOWN && opts & CAP_OPT_NOAUDIT;

	return (is_unaudited && !with_unaudited) || capability_filtered_out(cap) ||
	       filtered_out(bpf_get_current_pid_tgid());
}

/* True if equal checks are shown only once. */
static __always_inline bool once(__u32 opts)
{
	return unique ? unique != UNIQUE_OFF : opts == OPTS_UNKNOWN;
}

static __always_inline struct question question_of(void *ctx, struct user_namespace *ns, __u32 cap,
						   __u32 opts, bool typed)
{
	struct question question = {
		.cap = cap,
		.opts = opts,
		.ns = READ(typed, ns, ns.inum),
		.ns_level = READ(typed, ns, level),
	};

	if (once(opts) && stack_wanted(0))
		question.kernel_stack = current_stack_number(ctx, 0);
	if (once(opts) && stack_wanted(BPF_F_USER_STACK))
		question.user_stack = current_stack_number(ctx, BPF_F_USER_STACK);
	return question;
}

static __always_inline void put_program(struct sort *sort, bool typed)
{
	struct task_struct *task = (void *)bpf_get_current_task();

	sort->pid = bpf_get_current_pid_tgid() >> 32;
	if (typed && bpf_core_enum_value_exists(enum bpf_func_id, BPF_FUNC_get_current_task_btf)) {
		task = bpf_get_current_task_btf();
		sort->began = task->group_leader->start_time;
		sort->execs = task->self_exec_id;
	} else {
		sort->began = BPF_CORE_READ(task, group_leader, start_time);
		sort->execs = BPF_CORE_READ(task, self_exec_id);
	}
}

static __always_inline struct sort sort_of(const struct question *question, int ret, bool typed)
{
	struct sort sort = {
		.kernel_stack = question->kernel_stack,
		.user_stack = question->user_stack,
		.cap = question->cap,
		.opts = question->opts,
		.ns = question->ns,
		.ret = ret,
	};

	if (unique == UNIQUE_CGROUP)
		sort.cgroup = bpf_get_current_cgroup_id();
	else
		put_program(&sort, typed);
	return sort;
}

static __always_inline bool equals_earlier(const struct question *question, int ret, bool typed)
{
	struct sort sort = sort_of(question, ret, typed);

	return is_repeat(repeats, &sort);
}

/* A check that was to be shown is lost, so it must not stand for those that equal it. */
static __always_inline void forget(const struct question *question, int ret, bool typed)
{
	struct sort sort;

	if (!once(question->opts))
		return;
	sort = sort_of(question, ret, typed);
	forget_sort(repeats, &sort);
}

/* With --summary: count the check. */
static __always_inline void sum_up(__u32 cap, int ret)
{
	struct use use = { .cgroup = current_cgroup(), .cap = cap };
	struct verdicts *verdicts = top_of(uses, &use);

	if (verdicts) {
		add(verdicts->allowed, !ret);
		add(verdicts->denied, !!ret);
	}
}

/* True if the check is to be shown now that it is answered. */
static __always_inline bool shown(const struct question *question, int ret, bool typed)
{
	if (denied_only != allowed_only && denied_only != !!ret)
		return false;
	if (summed_up) {
		sum_up(question->cap, ret);
		return false;
	}
	return !once(question->opts) || !equals_earlier(question, ret, typed);
}

static __always_inline __s64 claim_of(__u32 opts, bool claim)
{
	return opts == OPTS_UNKNOWN ? EV_NO_NUMBER : claim;
}

static __always_inline void describe(struct check *check, const struct question *question, int ret)
{
	__u32 opts = question->opts;

	put_current_task(check, bpf_get_current_pid_tgid());
	check->cap = question->cap;
	check->ret = ret;
	check->audit = claim_of(opts, !(opts & CAP_OPT_NOAUDIT));
	check->insetid = claim_of(opts, opts & CAP_OPT_INSETID);
	check->ns = question->ns;
	check->ns_level = question->ns_level;
	check->syscall = current_ev_syscall();
}

static __always_inline int checked(void *ctx, struct user_namespace *ns, __u32 cap, __u32 opts,
				   int ret, bool typed)
{
	struct checks_draft *draft;
	struct question question;

	if (unwanted(cap, opts))
		return 0;
	question = question_of(ctx, ns, cap, opts, typed);
	if (!shown(&question, ret, typed))
		return 0;
	draft = reserve(checks);
	if (draft) {
		describe(&draft->record, &question, ret);
		put_stacks(draft, ctx);
	}
	if (!draft || !submit(checks, draft))
		forget(&question, ret, typed);
	return 0;
}

SEC("fexit/cap_capable")
int BPF_PROG(check__fexit, const struct cred *cred, struct user_namespace *ns, int cap,
	     unsigned int opts, int ret)
{
	return checked(ctx, ns, cap, opts, ret, true);
}

/* The stacks are taken here, because v5.10 does not find the callers of what has a kretprobe. */
SEC("kprobe/cap_capable")
int BPF_KPROBE(check__kprobe__entry, const struct cred *cred, struct user_namespace *ns, int cap,
	       unsigned int opts)
{
	__u32 tid = bpf_get_current_pid_tgid();
	struct checks_draft *draft;
	struct begin begin = {};

	if (unwanted(cap, opts))
		return 0;
	begin.question = question_of(ctx, ns, cap, opts, false);
	if (stack_wanted(0) || stack_wanted(BPF_F_USER_STACK)) {
		draft = reserve(checks);
		if (draft) {
			keep_stacks(stacks, &tid, draft, ctx, &begin);
			discard(checks, draft);
		}
	}
	pair_begin(begun, &tid, &begin, BPF_ANY);
	return 0;
}

SEC("kretprobe/cap_capable")
int BPF_KRETPROBE(check__kprobe__return, int ret)
{
	__u32 tid = bpf_get_current_pid_tgid();
	struct checks_draft *draft = NULL;
	struct begin begin;
	bool is_shown;

	if (!pair_end(begun, &tid, &begin))
		return 0;
	is_shown = shown(&begin.question, ret, false);
	if (is_shown)
		draft = reserve(checks);
	if (draft) {
		describe(&draft->record, &begin.question, ret);
		draft->record.stack = begin.stack;
		draft->record.user_stack = begin.user_stack;
		put_kept_stacks(stacks, &tid, draft);
	} else if (stack_wanted(0) || stack_wanted(BPF_F_USER_STACK)) {
		bpf_map_delete_elem(&stacks, &tid);
	}
	if (is_shown && (!draft || !submit(checks, draft)))
		forget(&begin.question, ret, false);
	return 0;
}

/* Linux commit d48da4d5ed7b ("security: add trace event for cap_capable") (in v6.14) */
ON_TRACEPOINT(cap_capable, check, , checked(ctx, ns, cap, OPTS_UNKNOWN, ret, typed),
	      const struct cred *cred, struct user_namespace *ns,
	      const struct user_namespace *capable_ns, int cap, int ret)
