/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Whose a TCP socket is, for tools whose events interrupt a task that has nothing to do with it. A
 * socket is owned by the process that was the last to connect, to listen, to accept it or to read
 * from it: a server may accept a connection and leave it to a child. If there is no such process, it
 * is the one that closes the socket.
 */
#ifndef OWNER_BPF_H
#define OWNER_BPF_H

#include "record.bpf.h"
#include "filter.bpf.h"
#include "read.bpf.h"
#include "syscall.bpf.h"
#include "drift/sock.bpf.h"

struct owner {
	__u32 pid;
	bool unwanted; /* the filters were applied when it acted */
	ev_cgroup cgroup;
	ev_comm comm;
};

/*
 * By the address of the struct sock. If the map is full, the owners of new sockets are not known,
 * which is no loss of events: see owner_filtered_out().
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 32768);
	__type(key, __u64);
	__type(value, struct owner);
} owners SEC(".maps");

/* True when list_owners() has told of the sockets that were there before the tracing began. */
bool owners_known;
__u64 unowned_lost;

static __always_inline bool is_tcp(struct sock *sk, bool typed)
{
	return READ(typed, sk, sk_protocol) == IPPROTO_TCP;
}

/* The current task has done what only an owner does. Threads of the kernel own nothing. */
static __always_inline int owner_acted(struct sock *sk, bool typed)
{
	__u64 pid_tgid = bpf_get_current_pid_tgid(), key = (__u64)sk;
	struct owner owner = {};

	if (current_flags(typed) & PF_KTHREAD)
		return 0;
	owner.pid = pid_tgid >> 32;
	owner.unwanted = filtered_out(pid_tgid);
	owner.cgroup = current_cgroup();
	bpf_get_current_comm(owner.comm, sizeof(owner.comm));
	bpf_map_update_elem(&owners, &key, &owner, BPF_ANY);
	return 0;
}

/* Whatever is done to a socket is done by the current task only if a task has locked the socket. */
static __always_inline bool is_locked(struct sock *sk, bool typed)
{
	return READ(typed, sk, sk_lock.owned);
}

/*
 * connect() and listen() change the state themselves. The later changes come from elsewhere, but for
 * those that close() makes: who closes a socket is its owner if no other is known, for example
 * because a thread has closed it before accept() returned to another.
 */
static __always_inline int owner_changed_state(struct sock *sk, int to, bool typed)
{
	__u64 key = (__u64)sk;

	if (!is_tcp(sk, typed))
		return 0;
	if (to == TCP_SYN_SENT || to == TCP_LISTEN ||
	    (is_locked(sk, typed) && !bpf_map_lookup_elem(&owners, &key)))
		return owner_acted(sk, typed);
	return 0;
}

/* Data are taken from the socket. */
static __always_inline int owner_read(struct sock *sk, bool typed)
{
	__u32 pid = bpf_get_current_pid_tgid() >> 32;
	__u64 key = (__u64)sk;
	struct owner *owner = bpf_map_lookup_elem(&owners, &key);

	if ((owner && owner->pid == pid) || !is_locked(sk, typed))
		return 0;
	return owner_acted(sk, typed);
}

/* The address may be that of another socket soon. */
static __always_inline int owner_gone(struct sock *sk)
{
	__u64 key = (__u64)sk;

	bpf_map_delete_elem(&owners, &key);
	return 0;
}

ON_TRACEPOINT_THRICE(tcp_destroy_sock, owner, __gone, owner_gone(sk), struct sock *sk)
ON_TRACEPOINT_THRICE(inet_sock_set_state, owner, __state, owner_changed_state(sk, to, typed),
		     struct sock *sk, int from, int to)
ON_TRACEPOINT_THRICE(tcp_rcv_space_adjust, owner, __read, owner_read(sk, typed), struct sock *sk)

/*
 * A socket is accepted, by a system call or by io_uring. The end of inet_csk_accept() would not do:
 * it is not traced for a call that waits already when the tracing begins.
 */
SEC("fentry/security_sock_graft")
int BPF_PROG(accepted__fentry, struct sock *sk, struct socket *parent)
{
	return is_tcp(sk, true) ? owner_acted(sk, true) : 0;
}

IS_SYSCALL(accept)
IS_SYSCALL(accept4)
IS_SYSCALL(socketcall)

static __always_inline bool may_have_accepted(struct syscall *call)
{
	return is_accept(call) || is_accept4(call) || is_socketcall(call);
}

/* Other calls by socketcall(2) may return the same number: that socket is the caller's, too. */
static __always_inline int accept_returned(void *ctx, const struct syscall *call, __s64 ret)
{
	struct sock *sk = ret >= 0 ? sock_of_fd(ret) : NULL;

	return sk && is_tcp(sk, false) ? owner_acted(sk, false) : 0;
}

ON_SYSCALL_EXIT(accepted, may_have_accepted, accept_returned)

/* Of several processes that have the same socket, the one that has acted or has the lowest id. */
SEC("iter/task_file")
int list_owners(struct bpf_iter__task_file *ctx)
{
	struct task_struct *task = ctx->task;
	struct file *file = ctx->file;
	struct owner owner = {};
	struct sock *sk;
	__u64 key;

	if (!task || !file) {
		owners_known = true;
		return 0;
	}
	sk = sock_of_file(file);
	if (!sk || !is_tcp(sk, false))
		return 0;
	key = (__u64)sk;
	owner.pid = task->tgid;
	owner.unwanted = task_filtered_out(task);
	owner.cgroup = cgroup_of_task(task);
	BPF_CORE_READ_STR_INTO(&owner.comm, task, comm);
	bpf_map_update_elem(&owners, &key, &owner, BPF_NOEXIST);
	return 0;
}

/* NULL if it is not known. */
static __always_inline struct owner *owner_of(struct sock *sk)
{
	__u64 key = (__u64)sk;

	return bpf_map_lookup_elem(&owners, &key);
}

/*
 * Apply the filters to the owner of SK. Ask this last: where processes are chosen, events of sockets
 * without a known owner are left out and counted. The kernel's own sockets have none.
 */
static __always_inline bool owner_filtered_out(const struct owner *owner, struct sock *sk)
{
	if (owner)
		return owner->unwanted;
	if (!processes_chosen())
		return false;
	if (!BPF_CORE_READ_BITFIELD_PROBED(sk, sk_kern_sock))
		__sync_fetch_and_add(&unowned_lost, 1);
	return true;
}

/* Fill in the members pid (an ev_number), cgroup and comm of a record. */
#define put_owner(record, owner)                                                               \
	({                                                                                     \
		const struct owner *__owner = (owner);                                         \
		(record)->pid = EV_NO_NUMBER;                                                  \
		(record)->comm[0] = '-';                                                       \
		if (__owner) {                                                                 \
			(record)->pid = __owner->pid;                                          \
			(record)->cgroup = __owner->cgroup;                                    \
			__builtin_memcpy((record)->comm, __owner->comm, COMM_LEN);             \
		}                                                                              \
	})

#endif
