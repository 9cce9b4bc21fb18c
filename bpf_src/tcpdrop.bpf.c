/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "record.bpf.h"
#include "count.bpf.h"
#include "filter.bpf.h"
#include "net.bpf.h"
#include "owner.bpf.h"
#include "read.bpf.h"
#include "stack.bpf.h"
#include "drift/skb.bpf.h"

#define REASONS_MOST 64

const volatile bool count_only;
const volatile bool count_flows;
const volatile __u32 wanted_netns;
const volatile __u32 wanted_count; /* reasons in the array below; 0 stands for all */
const volatile __u32 wanted_reasons[REASONS_MOST];
const volatile __u32 unwanted_count;
const volatile __u32 unwanted_reasons[REASONS_MOST];

/*
 * Linux commit c504e5c2f964 ("net: skb: introduce kfree_skb_reason()") (in v5.17 and v5.15.58)
 * gave kfree_skb a third argument, and commit c53795d48ee8 ("net: add rx_sk to trace_kfree_skb")
 * (in v6.11) a fourth, which may be NULL.
 */
const volatile __u32 argc_kfree_skb;

struct drop {
	ev_time time;
	ev_number pid; /* of the owner of the socket */
	ev_cgroup cgroup;
	ev_comm comm;
	__u32 ip;
	ev_addr saddr, daddr;
	__u16 sport, dport;
	ev_tcp_state state;
	ev_tcp_flags flags;
	ev_drop_reason reason;
	ev_number code; /* of the reason */
	ev_number netns;
	ev_stack stack;
};

RECORDS(drops, drop, 2 << 20, 2048);

__u64 unplaced_lost;

struct kind {
	ev_cgroup cgroup;
	ev_drop_reason reason;
	__u32 _padding;
};

struct flow {
	ev_cgroup cgroup;
	ev_addr saddr, daddr;
	__u32 sport, dport;
	ev_drop_reason reason;
	__u32 _padding;
};

struct totals {
	ev_count drops;
};

TOP(kinds, kind, totals, 1024);
TOP(flows, flow, totals, 4096);

static __always_inline bool is_listed(const volatile __u32 *reasons, __u32 count, __u32 reason)
{
	for (__u32 i = 0; i < REASONS_MOST; i++) {
		if (i >= count)
			break;
		if (reasons[i] == reason)
			return true;
	}
	return false;
}

static __always_inline bool reason_filtered_out(__u32 reason)
{
	/* These two are no drops: the packet has reached its end. */
	if (bpf_core_enum_value_exists(enum skb_drop_reason, SKB_NOT_DROPPED_YET) &&
	    reason == bpf_core_enum_value(enum skb_drop_reason, SKB_NOT_DROPPED_YET))
		return true;
	if (bpf_core_enum_value_exists(enum skb_drop_reason, SKB_CONSUMED) &&
	    reason == bpf_core_enum_value(enum skb_drop_reason, SKB_CONSUMED))
		return true;
	return (wanted_count && !is_listed(wanted_reasons, wanted_count, reason)) ||
	       is_listed(unwanted_reasons, unwanted_count, reason);
}

/* A drop in a namespace that cannot be told is counted: it may be in the wanted one. */
static __always_inline bool netns_filtered_out(__u32 netns)
{
	if (!wanted_netns || netns == wanted_netns)
		return false;
	if (!netns)
		add(unplaced_lost, 1);
	return true;
}

/* A socket that is about to be freed, or stands for one that has been, has no process any more. */
static __always_inline bool is_over(struct sock *sk)
{
	__u8 state = BPF_CORE_READ(sk, __sk_common.skc_state);

	return state == TCP_CLOSE || state == TCP_TIME_WAIT;
}

static __always_inline bool drop_filtered_out(const struct owner *owner, struct sock *sk)
{
	if (sk && (owner || !is_over(sk)))
		return owner_filtered_out(owner, sk);
	if (!processes_chosen())
		return false;
	/* Where the kernel does not tell the socket of each packet, one without may have one. */
	if (!sk && argc_kfree_skb < 4)
		add(unowned_lost, 1);
	return true;
}

static __always_inline struct totals *totals_of_kind(const struct owner *owner, __u32 reason)
{
	struct kind kind = {};

	kind.cgroup = owner ? owner->cgroup : 0;
	kind.reason = reason;
	return top_of(kinds, &kind);
}

static __always_inline struct totals *totals_of_flow(const struct packet *packet,
						     const struct owner *owner, __u32 reason)
{
	struct flow flow = {};

	flow.cgroup = owner ? owner->cgroup : 0;
	__builtin_memcpy(flow.saddr, packet->saddr, sizeof(flow.saddr));
	__builtin_memcpy(flow.daddr, packet->daddr, sizeof(flow.daddr));
	flow.sport = packet->sport;
	flow.dport = packet->dport;
	flow.reason = reason;
	return top_of(flows, &flow);
}

/* Count the drop if it is to be counted instead of being shown. */
static __always_inline bool counted(const struct packet *packet, const struct owner *owner,
				    __u32 reason)
{
	struct totals *totals;

	if (!count_only && !count_flows)
		return false;
	totals = count_flows ? totals_of_flow(packet, owner, reason) :
			       totals_of_kind(owner, reason);
	if (totals)
		add(totals->drops, 1);
	return true;
}

static __always_inline void show(void *ctx, const struct packet *packet, struct sock *sk,
				 const struct owner *owner, __u32 netns, __u32 reason)
{
	struct drops_draft *draft = reserve(drops);

	if (!draft)
		return;

	struct drop *drop = &draft->record;

	__builtin_memset(drop, 0, sizeof(*drop));
	drop->time = bpf_ktime_get_boot_ns();
	put_owner(drop, owner);
	drop->ip = ip_version(packet->saddr);
	__builtin_memcpy(drop->saddr, packet->saddr, sizeof(drop->saddr));
	__builtin_memcpy(drop->daddr, packet->daddr, sizeof(drop->daddr));
	drop->sport = packet->sport;
	drop->dport = packet->dport;
	drop->state = sk ? BPF_CORE_READ(sk, __sk_common.skc_state) : 0;
	drop->flags = packet->flags;
	drop->reason = reason;
	drop->code = reason == EV_NO_REASON ? EV_NO_NUMBER : reason;
	drop->netns = netns ?: EV_NO_NUMBER;
	put_stack(draft, &drop->stack, ctx, 0);
	submit(drops, draft);
}

/* RX_SK is the socket that was to receive the packet, as far as the kernel tells, or NULL. */
static __always_inline int dropped(void *ctx, struct sk_buff *skb, struct sock *rx_sk,
				   __u32 reason, bool typed)
{
	struct owner *owner = NULL;
	struct packet packet;
	struct sock *sk;
	__u32 netns;
	bool whole;

	if (!owners_known || reason_filtered_out(reason))
		return 0;
	whole = read_packet(skb, &packet, typed);
	if (!whole && READ(typed, skb, protocol)) /* something else than TCP */
		return 0;
	sk = tcp_socket(rx_sk) ?: tcp_socket(READ(typed, skb, sk));
	if (!whole && !read_packet_of_socket(skb, sk, &packet, typed))
		return 0;
	if (ends_filtered_out(packet.saddr, packet.sport, packet.daddr, packet.dport))
		return 0;
	netns = packet_netns(skb, sk);
	if (netns_filtered_out(netns))
		return 0;
	if (sk)
		owner = owner_of(listener_of(sk) ?: sk);
	if (drop_filtered_out(owner, sk))
		return 0;
	if (!counted(&packet, owner, reason))
		show(ctx, &packet, sk, owner, netns, reason);
	return 0;
}

/* The arguments that the tracepoint may lack must not be read where it does. */
#define REASON(ctx) (argc_kfree_skb > 2 ? (__u32)(ctx)[2] : EV_NO_REASON)
#define RX_SOCKET(ctx) (argc_kfree_skb > 3 ? (void *)(ctx)[3] : NULL)

SEC("tp_btf/kfree_skb")
int BPF_PROG(drop__tp_btf, struct sk_buff *skb)
{
	/*
	 * Before Linux commit 082116ffcb74 ("net: tcp: introduce tcp_drop_reason()") (in v5.18)
	 * tcp_drop() went past the tracepoint. A kernel of that time lacks this reason, too. It
	 * therefore refuses this program, and another rung is taken.
	 */
	if (!bpf_core_enum_value(enum skb_drop_reason, SKB_DROP_REASON_TCP_OVERWINDOW))
		return 0;
	return dropped(ctx, skb, RX_SOCKET(ctx), REASON(ctx), true);
}

/* In v5.18 tcp_drop() calls tcp_drop_reason(), and the tracepoint tells of the drop. */
#define TCP_DROP_IS_TRACED                                                                     \
	bpf_core_enum_value_exists(enum skb_drop_reason, SKB_DROP_REASON_TCP_OVERWINDOW)

SEC("tp_btf/kfree_skb")
int BPF_PROG(drop__fentry, struct sk_buff *skb)
{
	return dropped(ctx, skb, RX_SOCKET(ctx), REASON(ctx), true);
}

SEC("?fentry/tcp_drop")
int BPF_PROG(drop__fentry__tcp, struct sock *sk, struct sk_buff *skb)
{
	return TCP_DROP_IS_TRACED ? 0 : dropped(ctx, skb, sk, EV_NO_REASON, true);
}

SEC("raw_tp/kfree_skb")
int BPF_PROG(drop__raw_tp, struct sk_buff *skb)
{
	return dropped(ctx, skb, RX_SOCKET(ctx), REASON(ctx), false);
}

SEC("?kprobe/tcp_drop")
int BPF_KPROBE(drop__raw_tp__tcp, struct sock *sk, struct sk_buff *skb)
{
	return TCP_DROP_IS_TRACED ? 0 : dropped(ctx, skb, sk, EV_NO_REASON, false);
}
