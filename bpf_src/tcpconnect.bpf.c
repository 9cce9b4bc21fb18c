/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "record.bpf.h"
#include "count.bpf.h"
#include "filter.bpf.h"
#include "net.bpf.h"
#include "pair.bpf.h"
#include "read.bpf.h"
#include "stack.bpf.h"
#include "syscall.bpf.h"
#include "drift/sock.bpf.h"

#define EINPROGRESS 115
#define ECANCELED 125

const volatile bool failed_only;
const volatile bool count_only;

struct connect {
	ev_time time; /* of the call */
	__u32 pid;
	__u32 tid;
	ev_uid uid;
	ev_cgroup cgroup;
	ev_comm comm;
	__u32 ip;
	ev_addr saddr, daddr;
	__u16 sport, dport;
	ev_ret ret;
	ev_duration duration;
	ev_stack stack;
	ev_user_stack user_stack;
};

RECORDS(connects, connect, 1 << 20, 2048);

/* Connects without an answer, by socket. User space shows those that remain at the end. */
PAIRS(attempts, __u64, struct connect, 16384);
KEPT_STACKS(stacks, __u64, 1024);

struct peer {
	ev_cgroup cgroup;
	ev_addr laddr;
	ev_addr raddr;
	__u32 rport;
	__u32 _padding;
};

struct totals {
	ev_count connects;
	__u64 failed;
};

TOP(peers, peer, totals, 4096);

/* Count the connect instead of showing it. */
static __always_inline bool counted(const struct connect *connect)
{
	struct peer peer = {};
	struct totals *totals;

	if (!count_only)
		return false;
	put_flow(&peer, connect, saddr, daddr);
	peer.rport = connect->dport;
	totals = top_of(peers, &peer);
	if (totals) {
		add(totals->connects, 1);
		add(totals->failed, connect->ret < 0);
	}
	return true;
}

/* Fill in what the caller's context tells, and a result that holds until there is another. */
static __always_inline void describe(struct connect *connect, __u64 pid_tgid, __s64 ret)
{
	put_current_task(connect, pid_tgid);
	connect->ip = ip_version(connect->daddr);
	connect->ret = ret;
	connect->duration = EV_NO_DURATION;
}

/* connect() is about to send. Later events may not be in the caller's context any more. */
static __always_inline int began(void *ctx, struct sock *sk, bool again, bool typed)
{
	__u64 pid_tgid = bpf_get_current_pid_tgid(), key = (__u64)sk;
	struct connect connect;

	if ((again && bpf_map_lookup_elem(&attempts, &key)) || filtered_out(pid_tgid))
		return 0;
	__builtin_memset(&connect, 0, sizeof(connect));
	put_addresses(sk, connect.saddr, connect.daddr, typed);
	connect.dport = bpf_ntohs(READ(typed, sk, __sk_common.skc_dport));
	if (peer_filtered_out(connect.daddr, connect.dport))
		return 0;
	describe(&connect, pid_tgid, -EINPROGRESS);
	if (with_stack) {
		struct connects_draft *draft = reserve(connects);

		if (draft) {
			keep_stacks(stacks, &key, draft, ctx, &connect);
			discard(connects, draft);
		}
	}
	if (again)
		pair_stand_in(attempts, &key, &connect);
	else
		pair_begin(attempts, &key, &connect, BPF_ANY);
	return 0;
}

/* The result of a connect. It is EV_NO_RESULT if connect() itself fails: unsent__* tells why. */
static __always_inline __s64 result_of(struct sock *sk, int state, bool typed)
{
	struct socket *socket = READ(typed, sk, sk_socket);
	int error = READ(typed, sk, sk_err);

	if (state == TCP_ESTABLISHED || error)
		return state == TCP_ESTABLISHED ? 0 : -error;
	/* It has this state until connect() has sent. In any other, the program has given up. */
	return READ(typed, socket, state) == SS_UNCONNECTED ? EV_NO_RESULT : -ECANCELED;
}

static __always_inline int ended(struct sock *sk, int state, bool typed)
{
	__u64 key = (__u64)sk, now = bpf_ktime_get_boot_ns();
	struct connects_draft *draft;
	struct connect connect;
	bool wanted;

	if (!pair_end(attempts, &key, &connect))
		return 0;
	connect.sport = tcp_source_port(sk, typed);
	connect.ret = result_of(sk, state, typed);
	connect.duration = now - connect.time;
	wanted = connect.ret != EV_NO_RESULT && !(failed_only && !connect.ret) && !counted(&connect);
	draft = with_stack ? reserve(connects) : NULL;
	if (draft) {
		draft->record = connect;
		put_kept_stacks(stacks, &key, draft);
		if (wanted)
			submit(connects, draft);
		else
			discard(connects, draft);
	} else if (with_stack) {
		bpf_map_delete_elem(&stacks, &key);
	} else if (wanted) {
		put(connects, &connect);
	}
	return 0;
}

static __always_inline int changed(void *ctx, struct sock *sk, int from, int to, bool again,
				   bool typed)
{
	if (READ(typed, sk, sk_protocol) != IPPROTO_TCP)
		return 0;
	if (to == TCP_SYN_SENT)
		return began(ctx, sk, again, typed);
	/* If both ends connect, or a socket connects to itself, it passes through SYN_RECV. */
	if ((from == TCP_SYN_SENT || from == TCP_SYN_RECV) && to != TCP_SYN_RECV)
		return ended(sk, to, typed);
	return 0;
}

ON_TRACEPOINT_THRICE(inet_sock_set_state, connect, , changed(ctx, sk, from, to, again, typed),
		     struct sock *sk, int from, int to)

/* connect() fails before it sends, for example without a route or a free port. */
static __always_inline int failed(void *ctx, struct sock *sk, const struct sockaddr_in6 *to,
				  __s64 ret, bool typed)
{
	__u64 pid_tgid = bpf_get_current_pid_tgid();
	__u16 port = bpf_ntohs(to->sin6_port);
	struct connects_draft *draft;
	ev_addr address;

	put_sockaddr(to, address);
	if (filtered_out(pid_tgid) || peer_filtered_out(address, port))
		return 0;
	draft = reserve(connects);
	if (!draft)
		return 0;

	struct connect *connect = &draft->record;

	put_addresses(sk, connect->saddr, connect->daddr, typed);
	__builtin_memcpy(connect->daddr, address, sizeof(address));
	connect->sport = tcp_source_port(sk, typed);
	connect->dport = port;
	describe(connect, pid_tgid, ret);
	put_stacks(draft, ctx);
	if (counted(connect))
		discard(connects, draft);
	else
		submit(connects, draft);
	return 0;
}

static __always_inline int returned(void *ctx, struct sock *sk, void *address, int length, int ret)
{
	struct sockaddr_in6 to;

	if (ret >= 0)
		return 0;
	read_sockaddr(&to, address, length, bpf_probe_read_kernel);
	return failed(ctx, sk, &to, ret, true);
}

SEC("fexit/tcp_v4_connect")
int BPF_PROG(unsent__fexit__v4, struct sock *sk, void *address, int length, int ret)
{
	/* For other sockets tcp_v6_connect() calls this function. */
	return sk->__sk_common.skc_family == AF_INET ? returned(ctx, sk, address, length, ret) : 0;
}

SEC("fexit/tcp_v6_connect")
int BPF_PROG(unsent__fexit__v6, struct sock *sk, void *address, int length, int ret)
{
	return returned(ctx, sk, address, length, ret);
}

IS_SYSCALL(connect)

static __always_inline int connect_returned(void *ctx, const struct syscall *call, __s64 ret)
{
	struct sock *sk = ret < 0 ? sock_of_fd(call->args[0]) : NULL;
	struct sockaddr_in6 to;

	/* A socket that has sent has a sequence number, and connect__* sees its result. */
	if (!sk || BPF_CORE_READ(sk, sk_protocol) != IPPROTO_TCP ||
	    BPF_CORE_READ((struct tcp_sock *)sk, write_seq))
		return 0;
	read_sockaddr(&to, (void *)call->args[1], call->args[2], bpf_probe_read_user);
	return failed(ctx, sk, &to, ret, false);
}

ON_SYSCALL_EXIT(unsent, is_connect, connect_returned)
