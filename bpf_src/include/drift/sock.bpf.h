/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* struct sock and the structs that begin with it: addresses, ports and states. */
#ifndef DRIFT_SOCK_BPF_H
#define DRIFT_SOCK_BPF_H

#include "record.bpf.h"
#include "path.bpf.h"
#include "read.bpf.h"
#include <bpf/bpf_endian.h>

#define AF_INET 2
#define AF_INET6 10
#define S_IFMT 0170000
#define S_IFSOCK 0140000

/* An IPv4 address as IPv6 writes it: ::ffff:a.b.c.d. */
static __always_inline void put_ipv4(__u32 *ret, __u32 address)
{
	ret[0] = ret[1] = 0;
	ret[2] = bpf_htonl(0xffff);
	ret[3] = address;
}

static __always_inline __u32 ip_version(const __u32 *address)
{
	return address[0] || address[1] || address[2] != bpf_htonl(0xffff) ? 6 : 4;
}

/* The source and destination of a socket. Kernels without IPv6 lack some of these members. */
static __always_inline void put_addresses(struct sock *sk, __u32 *saddr, __u32 *daddr, bool typed)
{
	struct sock_common *common = &sk->__sk_common;

	if (READ(typed, common, skc_family) != AF_INET6 ||
	    !bpf_core_field_exists(common->skc_v6_daddr)) {
		put_ipv4(saddr, READ(typed, common, skc_rcv_saddr));
		put_ipv4(daddr, READ(typed, common, skc_daddr));
		return;
	}
#pragma unroll
	for (int i = 0; i < 4; i++) {
		saddr[i] = READ(typed, common, skc_v6_rcv_saddr.in6_u.u6_addr32[i]);
		daddr[i] = READ(typed, common, skc_v6_daddr.in6_u.u6_addr32[i]);
	}
}

/*
 * The port that a TCP socket sends from. skc_num has it as well, but is 0 again by the time that a
 * connect is known to have failed.
 */
static __always_inline __u16 tcp_source_port(struct sock *sk, bool typed)
{
	struct inet_sock *inet = (void *)sk;
	struct tcp_sock *tcp;

	if (!typed)
		return bpf_ntohs(BPF_CORE_READ(inet, inet_sport));
	tcp = bpf_skc_to_tcp_sock(sk);
	return tcp ? bpf_ntohs(tcp->inet_conn.icsk_inet.inet_sport) : 0;
}

/* The socket that a file is, or NULL. */
static __always_inline struct sock *sock_of_file(struct file *file)
{
	struct socket *socket = BPF_CORE_READ(file, private_data);

	if ((BPF_CORE_READ(file, f_inode, i_mode) & S_IFMT) != S_IFSOCK)
		return NULL;
	return BPF_CORE_READ(socket, sk);
}

/* The socket behind a descriptor of the current task, or NULL. */
static __always_inline struct sock *sock_of_fd(int fd)
{
	return sock_of_file(file_of_fd((void *)bpf_get_current_task(), fd));
}

/* Read a struct sockaddr of LENGTH bytes, by bpf_probe_read_kernel or bpf_probe_read_user. */
#define read_sockaddr(ret, from, length, read)                                                 \
	({                                                                                     \
		__u64 __length = (__u32)(length);                                              \
		barrier_var(__length);                                                         \
		__builtin_memset(ret, 0, sizeof(*(ret)));                                      \
		if (__length > sizeof(*(ret)))                                                 \
			__length = sizeof(*(ret));                                             \
		read(ret, __length, from);                                                     \
	})

/* A sockaddr_in has its port at the same offset, and its address at that of sin6_flowinfo. */
static __always_inline void put_sockaddr(const struct sockaddr_in6 *from, __u32 *ret)
{
	put_ipv4(ret, from->sin6_flowinfo);
	if (from->sin6_family == AF_INET6)
		__builtin_memcpy(ret, &from->sin6_addr, sizeof(from->sin6_addr));
}

#endif
