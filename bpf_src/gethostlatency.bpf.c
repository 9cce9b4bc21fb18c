/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "record.bpf.h"
#include "filter.bpf.h"
#include "function.bpf.h"
#include "glob.bpf.h"
#include "pair.bpf.h"
#include "read.bpf.h"
#include "uprobe.bpf.h"

#define ERANGE 34
#define HOST_MOST 1025 /* NI_MAXHOST */

const volatile bool failed_only;
const volatile __u64 least_ns;

/* The order of FUNCTIONS in runtime/host/lookups.py. */
enum function {
	GETADDRINFO,
	GETHOSTBYNAME,
	GETHOSTBYNAME2,
	GETHOSTBYNAME_R,
	GETHOSTBYNAME2_R,
	GETHOSTBYADDR,
	GETHOSTBYADDR_R,
};

/* How a lookup ended: one of these, with a number of that kind. runtime/host/lookups.py names it. */
enum outcome {
	FOUND,
	EAI_ERROR = 1 << 16,
	HOST_ERROR = 2 << 16,
	ERROR = 3 << 16,
	NOT_TOLD = 4 << 16, /* it failed, but what the function returns does not tell why */
	PENDING = 5 << 16,
	LEFT = 6 << 16,	  /* the function never returned, but its thread went on */
	EXITED = 7 << 16, /* the thread has ended meanwhile, or runs another program */
};

struct lookup {
	ev_time time; /* of the call */
	__u32 pid;
	__u32 tid;
	ev_uid uid;
	ev_lookup_function function;
	ev_cgroup cgroup;
	ev_comm comm;
	ev_duration duration;
	ev_lookup_result result;
	ev_text host;
};

RING(lookups, lookup, 512 << 10)

/* The places where a function whose name ends with _r leaves its result and its h_errno. */
struct places {
	__u64 result, host_error;
};

/*
 * The outermost lookup that a thread is in. A function of the family may call others of it; what
 * the first of those leaves behind tells why the outermost one fails.
 */
struct call {
	struct lookup lookup;
	char host[HOST_MOST]; /* directly behind the record, whose tail it is */
	__u64 host_at, address_length;
	__u64 exec_id;
	__u64 stack_pointer;
	struct places places;
	__u64 inner_stack_pointer; /* 0 while no inner function is known to run */
	struct places inner_places;
	__u32 inner_outcome;
};

PAIRS(calls, __u32, struct call, 4096);
ON_ARRIVAL(lookups)

static struct call no_call; /* too large for the stack */

static __always_inline __u64 current_exec_id(void)
{
	return BPF_CORE_READ((struct task_struct *)bpf_get_current_task(), self_exec_id);
}

static __always_inline bool takes_address(__u32 function)
{
	return function == GETHOSTBYADDR || function == GETHOSTBYADDR_R;
}

/* Copy the address as IPv6 writes it. */
static __always_inline void put_address(struct call *call)
{
	const void *from = (void *)call->host_at;
	const bool is_ipv4 = call->address_length == 4;
	long error;

	call->lookup.host.state = EV_UNREADABLE;
	if (!is_ipv4 && call->address_length != 16)
		return;
	if (is_ipv4) {
		__builtin_memset(call->host, 0, 10);
		__builtin_memset(call->host + 10, 0xff, 2);
		error = bpf_probe_read_user(call->host + 12, 4, from);
	} else {
		error = bpf_probe_read_user(call->host, 16, from);
	}
	if (error)
		return;
	call->lookup.host.state = EV_ADDRESS;
	call->lookup.host.length = 16;
}

static __always_inline void put_name(struct call *call)
{
	__s64 size;

	call->lookup.host.state = EV_ABSENT;
	if (!call->host_at)
		return;
	size = read_user_string(call->host, HOST_MOST, (void *)call->host_at);
	call->lookup.host.state = size == HOST_MOST ? EV_CUT :
				  size > 0	    ? EV_WHOLE :
						      EV_UNREADABLE;
	call->lookup.host.length = size > 0 ? size - 1 : 0;
}

static __always_inline void put_host(struct call *call)
{
	if (takes_address(call->lookup.function))
		put_address(call);
	else
		put_name(call);
}

/* Show a lookup that is over, if it is wanted, and forget it. */
static __always_inline void finish(__u32 tid, struct call *call, __u32 outcome, __u64 duration)
{
	__u64 size = sizeof(struct lookup) + call->lookup.host.length;

	call->lookup.result = outcome;
	call->lookup.duration = duration;
	if (!(failed_only && outcome == FOUND) && duration >= least_ns &&
	    size <= sizeof(struct lookup) + HOST_MOST)
		lookups_put(&call->lookup, size);
	bpf_map_delete_elem(&calls, &tid);
}

static __always_inline void begin(struct registers *ctx, __u32 pointer_size, __u64 pid_tgid,
				  __u32 function, struct places places)
{
	__u32 tid = pid_tgid;
	struct call *call;

	pair_begin(calls, &tid, &no_call, BPF_ANY);
	call = bpf_map_lookup_elem(&calls, &tid);
	if (!call)
		return;
	put_current_task(&call->lookup, pid_tgid);
	call->lookup.function = function;
	call->lookup.duration = EV_NO_DURATION;
	call->lookup.result = PENDING;
	call->host_at = function_argument(ctx, pointer_size, 0);
	if (takes_address(function))
		call->address_length = (__u32)function_argument(ctx, pointer_size, 1);
	call->exec_id = current_exec_id();
	call->stack_pointer = ctx->sp;
	call->places = places;
	put_host(call);
}

/* True if the function that is entered was called by the one that the thread is in. */
static __always_inline bool is_within(const struct call *call, const struct registers *ctx,
				      __u32 pointer_size)
{
	if (call->exec_id != current_exec_id())
		return false;
	/* The stack grows downwards. A function that was left by longjmp() has no part of it. */
	return ctx->sp < call->stack_pointer ||
	       (ctx->sp == call->stack_pointer && is_tail_call(ctx, pointer_size));
}

/* RESULT is the number of the argument that is a struct places with the next one; 0: there is none. */
static __always_inline int entered(struct registers *ctx, __u32 function, int result)
{
	__u64 pid_tgid = bpf_get_current_pid_tgid();
	__u32 tid = pid_tgid, size = pointer_size(ctx);
	struct call *call = bpf_map_lookup_elem(&calls, &tid);
	struct places places = {};

	if (result) {
		places.result = function_argument(ctx, size, result);
		places.host_error = function_argument(ctx, size, result + 1);
	}
	if (call && is_within(call, ctx, size)) {
		if (result && call->inner_stack_pointer <= ctx->sp) {
			call->inner_stack_pointer = ctx->sp;
			call->inner_places = places;
		}
		return 0;
	}
	if (call)
		finish(tid, call, LEFT, EV_NO_DURATION);
	if (!filtered_out(pid_tgid))
		begin(ctx, size, pid_tgid, function, places);
	return 0;
}

/* How a function whose name ends with _r has ended, which returns an error number. */
static __always_inline __u32 outcome_at(const struct places *places, __u32 pointer_size,
					__u32 error)
{
	__s32 host_error = user_value(places->host_error, sizeof(host_error));

	if (!error && user_pointer(places->result, pointer_size))
		return FOUND;
	/* musl does not set h_errno if the buffer was too small. */
	if (error != ERANGE && host_error > 0 && host_error < 1 << 16)
		return HOST_ERROR | host_error;
	return error ? ERROR | (error & 0xffff) : NOT_TOLD;
}

/* How the outermost function has ended. */
static __always_inline __u32 outcome_of(const struct call *call, __u32 pointer_size, __u64 result)
{
	switch (call->lookup.function) {
	case GETADDRINFO: /* its errors are negative */
		return (__s32)result ? EAI_ERROR | (-(__s32)result & 0xffff) : FOUND;
	case GETHOSTBYNAME_R:
	case GETHOSTBYNAME2_R:
	case GETHOSTBYADDR_R:
		return outcome_at(&call->places, pointer_size, result);
	default:
		return result ? FOUND : call->inner_outcome ?: NOT_TOLD;
	}
}

static __always_inline int returned(struct registers *ctx)
{
	__u64 now = bpf_ktime_get_boot_ns();
	__u32 tid = bpf_get_current_pid_tgid(), size;
	struct call *call = bpf_map_lookup_elem(&calls, &tid);
	__u64 stack_pointer, result;

	if (!call)
		return 0;
	size = pointer_size(ctx);
	stack_pointer = entry_stack_pointer(ctx, size);
	result = function_result(ctx, size);
	if (call->inner_stack_pointer == stack_pointer) {
		call->inner_outcome = outcome_at(&call->inner_places, size, result);
		call->inner_stack_pointer = 0;
	} else if (call->stack_pointer == stack_pointer) {
		if (call->lookup.host.state == EV_UNREADABLE)
			put_host(call); /* by now the function has read it */
		if (call->lookup.host.state != EV_ADDRESS &&
		    glob_filtered_out(call->host, call->lookup.host.length))
			bpf_map_delete_elem(&calls, &tid);
		else
			finish(tid, call, outcome_of(call, size, result), now - call->lookup.time);
	}
	return 0;
}

/*
 * The first program of each rung is attached to all functions, and before the others: whatever is
 * seen to begin is seen to return.
 */
SEC("uretprobe.multi")
int lookup__uprobe_multi(struct registers *ctx)
{
	USE_KERNEL_STACK(ctx);
	return returned(ctx);
}

/* Linux commit 89ae89f53d20 ("bpf: Add multi uprobe link") (in v6.6) */
SEC("uretprobe")
int lookup__uprobe(struct registers *ctx)
{
	USE_KERNEL_STACK(ctx);
	return returned(ctx);
}

#define ON_LOOKUP(name, function, result)                                                      \
	SEC("uprobe.multi")                                                                    \
	int lookup__uprobe_multi__##name(struct registers *ctx)                                \
	{                                                                                      \
		USE_KERNEL_STACK(ctx);                                                         \
		return entered(ctx, function, result);                                         \
	}                                                                                      \
	SEC("uprobe")                                                                          \
	int lookup__uprobe__##name(struct registers *ctx)                                      \
	{                                                                                      \
		USE_KERNEL_STACK(ctx);                                                         \
		return entered(ctx, function, result);                                         \
	}

ON_LOOKUP(getaddrinfo, GETADDRINFO, 0)
ON_LOOKUP(gethostbyname, GETHOSTBYNAME, 0)
ON_LOOKUP(gethostbyname2, GETHOSTBYNAME2, 0)
ON_LOOKUP(gethostbyname_r, GETHOSTBYNAME_R, 4)
ON_LOOKUP(gethostbyname2_r, GETHOSTBYNAME2_R, 5)
ON_LOOKUP(gethostbyaddr, GETHOSTBYADDR, 0)
ON_LOOKUP(gethostbyaddr_r, GETHOSTBYADDR_R, 6)

/* The memory of the thread goes away, and with it the function. */
static __always_inline int thread_gone(__u32 tid)
{
	__u64 now = bpf_ktime_get_boot_ns();
	struct call *call = bpf_map_lookup_elem(&calls, &tid);

	if (call)
		finish(tid, call, EXITED, now - call->lookup.time);
	return 0;
}

ON_TRACEPOINT_THRICE(sched_process_exit, gone, , thread_gone(bpf_get_current_pid_tgid()))
ON_TRACEPOINT_THRICE(sched_process_exec, gone, __exec, thread_gone(old_tid),
		     struct task_struct *task, int old_tid)
