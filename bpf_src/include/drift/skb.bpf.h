/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* struct sk_buff: the TCP packet in it, its socket and its network namespace. */
#ifndef DRIFT_SKB_BPF_H
#define DRIFT_SKB_BPF_H

#include "record.bpf.h"
#include "read.bpf.h"
#include "drift/sock.bpf.h"

#define ETH_P_IP 0x0800
#define ETH_P_IPV6 0x86dd
#define IPV4_OFFSET 0x1fff   /* of a fragment in its packet, in units of 8 bytes */
#define IPV6_OFFSET 0xfff8   /* the same in bytes */
#define NEXTHDR_HOP 0
#define NEXTHDR_ROUTING 43
#define NEXTHDR_FRAGMENT 44
#define NEXTHDR_AUTH 51
#define NEXTHDR_DEST 60
#define EXTENSIONS_MOST 6    /* headers between those of IPv6 and TCP */
#define TCP_FLAGS 0x1ff
#define NO_HEADER 0xffff     /* skb_transport_header_was_set() */
#define DST_NOREF 1ul        /* a bit of _skb_refdst, beside the pointer */

struct packet {
	ev_addr saddr, daddr;
	__u16 sport, dport; /* 0 where no header of TCP can be read */
	__u32 flags;        /* an ev_tcp_flags */
};

/* The headers as they are on the wire, as far as they are needed. */
struct ipv4_header {
	__u8 version_and_length;
	__u8 tos;
	__be16 total_length;
	__be16 id;
	__be16 fragment;
	__u8 ttl;
	__u8 protocol;
	__be16 checksum;
	__be32 saddr;
	__be32 daddr;
};

struct ipv6_header {
	__u8 version;
	__u8 flow[3];
	__be16 length;
	__u8 next;
	__u8 hops;
	__be32 saddr[4];
	__be32 daddr[4];
};

struct ipv6_extension {
	__u8 next;
	__u8 length; /* without the first 8 bytes, in units that depend on the kind */
	__be16 fragment;
	__be32 id;
};

struct tcp_header {
	__be16 source;
	__be16 dest;
	__be32 sequence;
	__be32 acknowledged;
	__be16 flags; /* in the lower bits */
	__be16 window;
};

/* The part of a packet that is in one piece. Headers have been pulled into it before their use. */
struct linear_part {
	unsigned char *bytes;
	__u32 length;
};

static __always_inline bool read_header(const struct linear_part *from, __u32 at, void *ret,
					__u32 size)
{
	return at + size <= from->length && !bpf_probe_read_kernel(ret, size, from->bytes + at);
}

/* A packet may end within its header: show what there is. */
static __always_inline void read_tcp_header(const struct linear_part *from, __u32 at,
					    struct packet *ret)
{
	struct tcp_header tcp = {};
	__u32 ports = offsetof(struct tcp_header, sequence);

	if (read_header(from, at, &tcp, sizeof(tcp)))
		ret->flags = bpf_ntohs(tcp.flags) & TCP_FLAGS;
	else if (!read_header(from, at, &tcp, ports))
		return;
	ret->sport = bpf_ntohs(tcp.source);
	ret->dport = bpf_ntohs(tcp.dest);
}

static __always_inline bool read_ipv4(const struct linear_part *from, __u32 at, struct packet *ret)
{
	struct ipv4_header ip;
	__u32 length;

	if (!read_header(from, at, &ip, sizeof(ip)) || ip.version_and_length >> 4 != 4 ||
	    ip.protocol != IPPROTO_TCP)
		return false;
	put_ipv4(ret->saddr, ip.saddr);
	put_ipv4(ret->daddr, ip.daddr);
	length = (ip.version_and_length & 15) * 4;
	/* Any fragment but the first has no header of TCP. */
	if (length >= sizeof(ip) && !(bpf_ntohs(ip.fragment) & IPV4_OFFSET))
		read_tcp_header(from, at + length, ret);
	return true;
}

static __always_inline bool read_ipv6(const struct linear_part *from, __u32 at, struct packet *ret)
{
	struct ipv6_extension extension;
	struct ipv6_header ip;

	if (!read_header(from, at, &ip, sizeof(ip)) || ip.version >> 4 != 6)
		return false;
	__builtin_memcpy(ret->saddr, ip.saddr, sizeof(ret->saddr));
	__builtin_memcpy(ret->daddr, ip.daddr, sizeof(ret->daddr));
	at += sizeof(ip);
	for (int i = 0; i < EXTENSIONS_MOST && ip.next != IPPROTO_TCP; i++) {
		if (ip.next != NEXTHDR_HOP && ip.next != NEXTHDR_ROUTING &&
		    ip.next != NEXTHDR_FRAGMENT && ip.next != NEXTHDR_AUTH && ip.next != NEXTHDR_DEST)
			return false;
		if (!read_header(from, at, &extension, sizeof(extension)))
			return false;
		/* Here, too, only the first fragment has what follows. */
		if (ip.next == NEXTHDR_FRAGMENT && bpf_ntohs(extension.fragment) & IPV6_OFFSET)
			return extension.next == IPPROTO_TCP;
		if (ip.next == NEXTHDR_FRAGMENT)
			at += sizeof(extension);
		else if (ip.next == NEXTHDR_AUTH)
			at += (extension.length + 2) * 4;
		else
			at += (extension.length + 1) * 8;
		ip.next = extension.next;
	}
	if (ip.next != IPPROTO_TCP)
		return false;
	read_tcp_header(from, at, ret);
	return true;
}

/* The socket if it is one of TCP, else NULL: raw sockets send packets of TCP, too. */
static __always_inline struct sock *tcp_socket(struct sock *sk)
{
	__u16 family;
	__u8 state;

	if (!sk)
		return NULL;
	family = BPF_CORE_READ(sk, __sk_common.skc_family);
	state = BPF_CORE_READ(sk, __sk_common.skc_state);
	if (family != AF_INET && family != AF_INET6)
		return NULL;
	if (state == TCP_NEW_SYN_RECV || state == TCP_TIME_WAIT)
		return sk; /* not a whole struct sock: it has no protocol */
	return BPF_CORE_READ(sk, sk_protocol) == IPPROTO_TCP ? sk : NULL;
}

static __always_inline bool is_whole_socket(struct sock *sk)
{
	__u8 state = BPF_CORE_READ(sk, __sk_common.skc_state);

	return sk && state != TCP_NEW_SYN_RECV && state != TCP_TIME_WAIT;
}

/* The socket that listens, if SK stands for a connection that is about to be established. */
static __always_inline struct sock *listener_of(struct sock *sk)
{
	if (BPF_CORE_READ(sk, __sk_common.skc_state) != TCP_NEW_SYN_RECV)
		return NULL;
	return BPF_CORE_READ(sk, __sk_common.skc_listener);
}

/*
 * Read the headers of a packet; false if it is not one of TCP. They are in the packet itself, also
 * where it has no socket. The header of TCP is found from that of IP, because the kernel may not
 * have come to it yet.
 */
static __always_inline bool read_packet(struct sk_buff *skb, struct packet *ret, bool typed)
{
	__be16 protocol = READ(typed, skb, protocol);
	__u32 at = READ(typed, skb, network_header);
	unsigned char *head = READ(typed, skb, head);
	struct linear_part from = { .bytes = head, .length = READ(typed, skb, tail) };

	if (!at) /* not set yet: the header of IP comes next */
		at = READ(typed, skb, data) - head;
	ret->sport = ret->dport = 0;
	ret->flags = EV_NO_TCP_FLAGS;
	if (protocol == bpf_htons(ETH_P_IP))
		return read_ipv4(&from, at, ret);
	return protocol == bpf_htons(ETH_P_IPV6) && read_ipv6(&from, at, ret);
}

/*
 * The same for a packet that has no header of IP, and therefore no protocol, but a socket. Either
 * it has none yet, because there is no route for it; or TCP has put it together from several that
 * it has received.
 */
static __always_inline bool read_packet_of_socket(struct sk_buff *skb, struct sock *sk,
						  struct packet *ret, bool typed)
{
	__u32 at = READ(typed, skb, transport_header);
	struct linear_part from = {
		.bytes = READ(typed, skb, head),
		.length = READ(typed, skb, tail),
	};

	if (READ(typed, skb, protocol) || !is_whole_socket(sk))
		return false;
	if (READ(typed, skb, sk) == sk) {
		put_addresses(sk, ret->saddr, ret->daddr, false);
		ret->sport = BPF_CORE_READ(sk, __sk_common.skc_num);
		ret->dport = bpf_ntohs(BPF_CORE_READ(sk, __sk_common.skc_dport));
		if (at != NO_HEADER)
			read_tcp_header(&from, at, ret);
	} else {
		put_addresses(sk, ret->daddr, ret->saddr, false);
		ret->dport = BPF_CORE_READ(sk, __sk_common.skc_num);
		ret->sport = bpf_ntohs(BPF_CORE_READ(sk, __sk_common.skc_dport));
	}
	return true;
}

/* The number of a namespace, 0 if the pointer leads to something else. */
static __always_inline __u32 netns_number(struct net *net)
{
	struct task_struct *task = (void *)bpf_get_current_task();

	if (!net || BPF_CORE_READ(net, ns.ops) != BPF_CORE_READ(task, nsproxy, net_ns, ns.ops))
		return 0;
	return BPF_CORE_READ(net, ns.inum);
}

/*
 * The number of a packet's network namespace, 0 if it cannot be told. TCP keeps packets in trees,
 * whose links take the place of dev, and in lists, whose links take that of _skb_refdst: what is
 * found there need not be a namespace.
 */
static __always_inline __u32 packet_netns(struct sk_buff *skb, struct sock *sk)
{
	struct dst_entry *dst = (void *)(BPF_CORE_READ(skb, _skb_refdst) & ~DST_NOREF);
	__u32 number = netns_number(BPF_CORE_READ(sk, __sk_common.skc_net.net));

	if (!number)
		number = netns_number(BPF_CORE_READ(skb, dev, nd_net.net));
	if (!number)
		number = netns_number(BPF_CORE_READ(dst, dev, nd_net.net));
	return number;
}

#endif
