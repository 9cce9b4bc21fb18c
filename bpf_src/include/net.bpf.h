/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Filters of addresses and ports: the options of runtime/spec/net.py. */
#ifndef NET_BPF_H
#define NET_BPF_H

#include "record.bpf.h"
#include "drift/sock.bpf.h"

#define NETS_MOST 16

struct net_wanted {
	__u32 address[4];
	__u32 mask[4];
	__u32 ip; /* 4 or 6: ::/0 does not contain IPv4 */
};

const volatile bool net_ipv4_only;
const volatile bool net_ipv6_only;
const volatile bool net_ports_given;
const volatile __u8 net_ports[65536 / 8]; /* a bit for each port */
const volatile __u32 net_count;
const volatile struct net_wanted net_wanted[NETS_MOST];

static __always_inline bool version_filtered_out(const __u32 *address)
{
	__u32 ip = ip_version(address);

	return (net_ipv4_only && ip != 4) || (net_ipv6_only && ip != 6);
}

static __always_inline bool port_filtered_out(__u16 port)
{
	__u64 at = port / 8;

	barrier_var(at); /* v5.10's verifier needs the bound right before its use */
	return net_ports_given && !(net_ports[at & 8191] & 1 << (port & 7));
}

static __always_inline bool address_filtered_out(const __u32 *address)
{
	__u32 ip = ip_version(address);

	for (__u32 i = 0; i < NETS_MOST; i++) {
		const volatile struct net_wanted *net = net_wanted + i;

		if (i >= net_count)
			break;
		if (net->ip == ip && !((address[0] ^ net->address[0]) & net->mask[0]) &&
		    !((address[1] ^ net->address[1]) & net->mask[1]) &&
		    !((address[2] ^ net->address[2]) & net->mask[2]) &&
		    !((address[3] ^ net->address[3]) & net->mask[3]))
			return false;
	}
	return net_count;
}

/* ADDRESS is the remote one; the tool says in its help of which end the port is. */
static __always_inline bool peer_filtered_out(const __u32 *address, __u16 port)
{
	return version_filtered_out(address) || port_filtered_out(port) ||
	       address_filtered_out(address);
}

/* The same for a packet: a port, and a network, may be that of either end. */
static __always_inline bool ends_filtered_out(const __u32 *saddr, __u16 sport, const __u32 *daddr,
					      __u16 dport)
{
	return version_filtered_out(saddr) ||
	       (port_filtered_out(sport) && port_filtered_out(dport)) ||
	       (address_filtered_out(saddr) && address_filtered_out(daddr));
}

/* Fill in the members cgroup, laddr and raddr of the key of a sum. */
#define put_flow(key, record, local, remote)                                                   \
	({                                                                                     \
		(key)->cgroup = (record)->cgroup;                                              \
		__builtin_memcpy((key)->laddr, (record)->local, sizeof((key)->laddr));         \
		__builtin_memcpy((key)->raddr, (record)->remote, sizeof((key)->raddr));        \
		(void)0;                                                                       \
	})

#endif
