/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "record.bpf.h"
#include "count.bpf.h"
#include "filter.bpf.h"
#include "net.bpf.h"
#include "stack.bpf.h"
#include "syscall.bpf.h"
#include "drift/sock.bpf.h"

#define EINTR 4
#define EAGAIN 11
#define ERESTARTSYS 512

/* Which call socketcall(2) makes, by its first argument. */
#define SOCKETCALL_ACCEPT 5
#define SOCKETCALL_ACCEPT4 18

const volatile bool count_only;
const volatile __u64 least_ns;

struct accept {
	ev_time time;
	__u32 pid;
	__u32 tid;
	ev_uid uid;
	ev_cgroup cgroup;
	ev_comm comm;
	__u32 ip;
	ev_addr raddr, laddr;
	__u16 rport, lport;
	ev_duration wait; /* in the accept queue */
	ev_number backlog; /* how many connections are in that queue now */
	ev_number backlog_max;
	ev_ret ret;
	ev_stack stack;
	ev_user_stack user_stack;
};

RECORDS(accepts, accept, 1 << 20, 2048);

struct client {
	ev_cgroup cgroup;
	ev_addr raddr;
	ev_addr laddr;
	__u32 lport;
	__u32 _padding;
};

struct totals {
	ev_duration waited;
	ev_count accepts;
};

TOP(clients, client, totals, 4096);

static __always_inline bool is_tcp(struct sock *sk, bool typed)
{
	__u16 protocol = READ(typed, sk, sk_protocol);

	return protocol == IPPROTO_TCP || protocol == IPPROTO_MPTCP;
}

/* A socket of MPTCP stands for several of TCP. The first of them has the queue and the times. */
static __always_inline struct tcp_sock *tcp_of(struct sock *sk, bool typed)
{
	struct mptcp_sock *mptcp = (void *)sk;

	if (READ(typed, sk, sk_protocol) != IPPROTO_MPTCP)
		return (void *)sk;
	return bpf_core_field_exists(mptcp->first) ? (void *)BPF_CORE_READ(mptcp, first) : NULL;
}

/*
 * How long a connection was in the accept queue. tcp_init_buffer_space(), which is called when it
 * is established, notes the time from which to measure how fast the program reads, in microseconds
 * of CLOCK_MONOTONIC. The program cannot have read before accept() returns.
 */
static __always_inline __u64 time_in_queue(struct sock *sk, bool typed)
{
	__u64 queued = BPF_CORE_READ(tcp_of(sk, typed), rcvq_space.time) * 1000;
	__u64 now = bpf_ktime_get_ns();

	if (!queued)
		return EV_NO_DURATION;
	return now > queued ? now - queued : 0;
}

/* If another thread has closed LISTENER meanwhile, its queue is not known. */
static __always_inline void put_backlog(struct accept *accept, struct sock *listener)
{
	struct sock *tcp = (void *)tcp_of(listener, false);

	accept->backlog = accept->backlog_max = EV_NO_NUMBER;
	if (!is_tcp(listener, false) || tcp_source_port(listener, false) != accept->lport)
		return;
	accept->backlog = BPF_CORE_READ(tcp, sk_ack_backlog);
	accept->backlog_max = BPF_CORE_READ(tcp, sk_max_ack_backlog);
}

/* Count the accept instead of showing it. */
static __always_inline bool counted(const struct accept *accept)
{
	struct client client = {};
	struct totals *totals;

	if (!count_only)
		return false;
	put_flow(&client, accept, laddr, raddr);
	client.lport = accept->lport;
	totals = top_of(clients, &client);
	if (totals) {
		add(totals->accepts, 1);
		add(totals->waited, accept->wait == EV_NO_DURATION ? 0 : accept->wait);
	}
	return true;
}

/* SK is the connection, or LISTENER itself if there is none because accept() has failed. */
static __always_inline int show(void *ctx, struct sock *listener, struct sock *sk, __s64 ret,
				bool typed)
{
	__u64 pid_tgid = bpf_get_current_pid_tgid();
	struct accepts_draft *draft;
	struct accept accept;

	if (filtered_out(pid_tgid))
		return 0;
	__builtin_memset(&accept, 0, sizeof(accept));
	put_addresses(sk, accept.laddr, accept.raddr, typed);
	accept.ip = ip_version(accept.raddr);
	accept.rport = bpf_ntohs(READ(typed, sk, __sk_common.skc_dport));
	accept.lport = tcp_source_port(sk, false);
	if (peer_filtered_out(accept.raddr, accept.lport))
		return 0;
	accept.wait = ret < 0 ? EV_NO_DURATION : time_in_queue(sk, typed);
	if (accept.wait < least_ns)
		return 0;
	accept.ret = ret;
	put_backlog(&accept, listener);
	put_current_task(&accept, pid_tgid);
	if (counted(&accept))
		return 0;
	draft = reserve(accepts);
	if (!draft)
		return 0;
	draft->record = accept;
	put_stacks(draft, ctx);
	submit(accepts, draft);
	return 0;
}

IS_SYSCALL(accept)
IS_SYSCALL(accept4)
IS_SYSCALL(socketcall)

static __always_inline bool may_accept(struct syscall *call)
{
	return is_accept(call) || is_accept4(call) || is_socketcall(call);
}

/* Find the descriptor that accept() was given. False if socketcall(2) makes another call. */
static __always_inline bool descriptor_of(const struct syscall *call, __u32 *ret)
{
	*ret = call->args[0];
	if (call->number != (call->compat ? COMPAT_socketcall : SYS_socketcall))
		return true;
	if (call->args[0] != SOCKETCALL_ACCEPT && call->args[0] != SOCKETCALL_ACCEPT4)
		return false;
	return !bpf_probe_read_user(ret, sizeof(*ret), (void *)call->args[1]);
}

/* Tell whether the current task is in accept(), and set the number of that call. */
static __always_inline bool is_in_accept(struct syscall *ret)
{
	ret->number = current_syscall();
	return ret->number != NO_SYSCALL && may_accept(ret);
}

/*
 * The kernel calls this function when accept() has a connection. The end of inet_csk_accept() would
 * not do: it is not traced for a call that was waiting already when the tracing began.
 */
SEC("fentry/security_sock_graft")
int BPF_PROG(accept__fexit__syscall, struct sock *sk, struct socket *parent)
{
	struct syscall call = {};
	struct pt_regs *regs;
	__u32 fd;

	if (!is_tcp(sk, true) || !is_in_accept(&call))
		return 0;
	regs = current_registers();
	__syscall_read(&call, regs, READ_BY_PROBE);
	return show(ctx, descriptor_of(&call, &fd) ? sock_of_fd(fd) : NULL, sk, 0, true);
}

/*
 * Accepts by io_uring and by the kernel itself. Linux commit 92ef0fd55ac8 ("net: change proto and
 * proto_ops accept type") (in v6.10) made one argument of three, and what is returned stands behind
 * the arguments.
 */
SEC("fexit/inet_csk_accept")
int accept__fexit__other(unsigned long long *ctx)
{
	unsigned long long listener = ctx[0], sk;
	struct syscall call = {};

	if (bpf_core_field_exists(struct proto_accept_arg, flags)) {
		sk = ctx[2];
	} else {
		sk = ctx[4];
		barrier_var(sk); /* keeps both loads at constant offsets, as the verifier demands */
	}
	if (!sk || is_in_accept(&call))
		return 0;
	return show(ctx, (void *)listener, (void *)sk, 0, false);
}

/*
 * Another thread may have closed the new descriptor already, or may even use it for another socket.
 * Then the connection cannot be found, and its accept is counted here.
 */
__u64 closed_lost;

/* The inode numbers of accepted sockets: what two accepts find is what the second returned. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 8192);
	__type(key, __u64);
	__type(value, bool);
} accepted_inodes SEC(".maps");

/* Tell whether SK, behind the descriptor FD, is a connection that no other accept has found. */
static __always_inline bool is_new_connection(struct sock *sk, int fd)
{
	struct file *file = file_of_fd((void *)bpf_get_current_task(), fd);
	__u64 inode = BPF_CORE_READ(file, f_inode, i_ino);
	bool yes = true;

	return BPF_CORE_READ(sk, __sk_common.skc_dport) &&
	       !bpf_map_update_elem(&accepted_inodes, &inode, &yes, BPF_NOEXIST);
}

/* LISTENER is NULL if another thread has closed it, too. Its addresses may be those of any host. */
static __always_inline void count_closed(struct sock *listener)
{
	if (filtered_out(bpf_get_current_pid_tgid()))
		return;
	if (!listener || (is_tcp(listener, false) &&
			  !port_filtered_out(tcp_source_port(listener, false))))
		__sync_fetch_and_add(&closed_lost, 1);
}

static __always_inline int accepted(void *ctx, const struct syscall *call, __s64 ret)
{
	struct sock *listener, *sk;
	__u32 fd;

	if (ret < 0 || !descriptor_of(call, &fd))
		return 0;
	listener = sock_of_fd(fd);
	sk = sock_of_fd(ret);
	if (sk && is_tcp(sk, false) && is_new_connection(sk, ret))
		return show(ctx, listener, sk, 0, false);
	count_closed(listener);
	return 0;
}

ON_SYSCALL_EXIT(accept, may_accept, accepted)

/* --failed. That no connection was there, or that a signal came, is no failure. */
static __always_inline int accept_failed(void *ctx, const struct syscall *call, __s64 ret)
{
	struct sock *listener;
	__u32 fd;

	if (ret >= 0 || ret == -EAGAIN || ret == -ERESTARTSYS || ret == -EINTR ||
	    !descriptor_of(call, &fd))
		return 0;
	listener = sock_of_fd(fd);
	if (!listener || !is_tcp(listener, false))
		return 0;
	return show(ctx, listener, listener, ret, false);
}

ON_SYSCALL_EXIT(failed, may_accept, accept_failed)
