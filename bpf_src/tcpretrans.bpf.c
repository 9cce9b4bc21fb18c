/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "record.bpf.h"
#include "count.bpf.h"
#include "filter.bpf.h"
#include "net.bpf.h"
#include "owner.bpf.h"
#include "read.bpf.h"
#include "stack.bpf.h"
#include "drift/sock.bpf.h"

#define ICSK_TIME_LOSS_PROBE 5
#define TCP_INFINITE_SSTHRESH 0x7fffffff
#define NO_CA_STATE 255
#define NSEC_PER_USEC 1000

const volatile bool count_only;
const volatile __u32 tick_ns; /* of a jiffy */

/*
 * Linux commit ad892e912b84 ("tcp: trace retransmit failures in tcp_retransmit_skb") (in v6.17)
 * added the error that the retransmit ended with, and tells of those that failed, too.
 */
const volatile __u32 argc_tcp_retransmit_skb;

/* A loss probe sends the last segment again, or new data where there are some. */
enum retransmit_type { RETRANSMIT, LOSS_PROBE, NEW_DATA_PROBE, SYN_ACK };

struct retransmit {
	ev_time time;
	ev_number pid; /* of the owner of the socket */
	ev_uid uid;    /* of the socket */
	ev_retransmit type;
	ev_cgroup cgroup;
	ev_comm comm;
	__u32 ip;
	ev_tcp_state state;
	ev_addr laddr, raddr;
	__u16 lport, rport;
	__u32 seq;
	__u32 bytes;
	__u32 segments;
	ev_ret ret;
	ev_ca_state ca_state;
	ev_duration rto;
	ev_duration rtt;
	ev_number cwnd;
	ev_number ssthresh;
	ev_number unacked;
	ev_stack stack;
	ev_user_stack user_stack; /* always absent */
};

RECORDS(retransmits, retransmit, 1 << 20, 1024);

struct flow {
	ev_cgroup cgroup;
	ev_addr laddr, raddr;
	__u32 lport, rport;
};

struct totals {
	ev_count retransmits;
	ev_count failed;
	ev_count probes;
};

TOP(flows, flow, totals, 4096);

/* Count the retransmit instead of showing it. */
static __always_inline bool counted(const struct retransmit *retransmit)
{
	struct totals *totals;
	struct flow flow = {};

	if (!count_only)
		return false;
	put_flow(&flow, retransmit, laddr, raddr);
	flow.lport = retransmit->lport;
	flow.rport = retransmit->rport;
	totals = top_of(flows, &flow);
	if (!totals)
		return true;
	if (retransmit->type == NEW_DATA_PROBE)
		add(totals->probes, 1);
	else if (retransmit->ret < 0)
		add(totals->failed, 1);
	else
		add(totals->retransmits, 1);
	return true;
}

/* Show or count what is described but for its owner, who owns OWNED. */
static __always_inline int finish(void *ctx, struct retransmit *retransmit, struct sock *owned)
{
	struct retransmits_draft *draft;
	struct owner *owner;

	if (!owners_known || ends_filtered_out(retransmit->laddr, retransmit->lport,
					       retransmit->raddr, retransmit->rport))
		return 0;
	owner = owner_of(owned);
	if (owner_filtered_out(owner, owned))
		return 0;
	put_owner(retransmit, owner);
	if (counted(retransmit))
		return 0;
	draft = reserve(retransmits);
	if (!draft)
		return 0;
	draft->record = *retransmit;
	put_stack(draft, &draft->record.stack, ctx, 0);
	submit(retransmits, draft);
	return 0;
}

/* What both a socket and a request to connect begin with. */
static __always_inline void put_ends(struct retransmit *ret, struct sock *sk, bool typed)
{
	ret->time = bpf_ktime_get_boot_ns();
	put_addresses(sk, ret->laddr, ret->raddr, typed);
	ret->ip = ip_version(ret->raddr);
	ret->rport = bpf_ntohs(READ(typed, sk, __sk_common.skc_dport));
	ret->state = READ(typed, sk, __sk_common.skc_state);
	/* User stacks would be those of whoever is interrupted. */
	no_part(&ret->user_stack);
}

static __always_inline void put_socket(struct retransmit *ret, struct sock *sk,
				       struct tcp_sock *tcp, bool typed)
{
	__u32 rtt_us = READ(typed, tcp, srtt_us) >> 3, ssthresh = READ(typed, tcp, snd_ssthresh);

	put_ends(ret, sk, typed);
	ret->lport = tcp_source_port(sk, typed);
	ret->uid = READ(typed, sk, sk_uid.val);
	ret->ca_state = READ_BITS(typed, tcp, inet_conn.icsk_ca_state);
	ret->rto = (__u64)READ(typed, tcp, inet_conn.icsk_rto) * tick_ns;
	ret->rtt = rtt_us ? (__u64)rtt_us * NSEC_PER_USEC : EV_NO_DURATION;
	ret->cwnd = READ(typed, tcp, snd_cwnd);
	ret->ssthresh = ssthresh < TCP_INFINITE_SSTHRESH ? ssthresh : EV_NO_NUMBER;
	ret->unacked = READ(typed, tcp, packets_out);
}

/* The timer of a loss probe is still the pending one, and no loss is known yet. */
static __always_inline bool is_loss_probe(const struct retransmit *retransmit, struct tcp_sock *tcp,
					  bool typed)
{
	return READ(typed, tcp, inet_conn.icsk_pending) == ICSK_TIME_LOSS_PROBE &&
	       retransmit->ca_state < TCP_CA_Recovery;
}

static __always_inline int resent(void *ctx, struct sock *sk, struct sk_buff *skb, int error,
				  bool typed)
{
	struct tcp_sock *tcp = typed ? bpf_skc_to_tcp_sock(sk) : (void *)sk;
	struct tcp_skb_cb *segment = (void *)skb->cb;
	struct retransmit retransmit;

	if (!tcp)
		return 0;
	__builtin_memset(&retransmit, 0, sizeof(retransmit));
	put_socket(&retransmit, sk, tcp, typed);
	retransmit.type = is_loss_probe(&retransmit, tcp, typed) ? LOSS_PROBE : RETRANSMIT;
	retransmit.ret = error;
	retransmit.seq = READ(typed, segment, seq);
	retransmit.bytes = READ(typed, skb, len);
	retransmit.segments = READ(typed, segment, tcp_gso_segs);
	return finish(ctx, &retransmit, sk);
}

#define RETRANSMIT_ERROR(ctx) (argc_tcp_retransmit_skb > 2 ? (int)(ctx)[2] : 0)

ON_TRACEPOINT(tcp_retransmit_skb, retransmit, , resent(ctx, sk, skb, RETRANSMIT_ERROR(ctx), typed),
	      struct sock *sk, struct sk_buff *skb)

/* LISTENER is the socket of the connection itself if that was opened by TCP Fast Open. */
static __always_inline int synack_resent(void *ctx, struct sock *listener,
					 struct request_sock *request, bool typed)
{
	struct retransmit retransmit;

	__builtin_memset(&retransmit, 0, sizeof(retransmit));
	put_ends(&retransmit, (void *)request, typed);
	retransmit.state = TCP_SYN_RECV; /* as /proc/net/tcp has it; the kernel's own is another */
	retransmit.lport = READ(typed, request, __req_common.skc_num);
	retransmit.uid = READ(typed, listener, sk_uid.val);
	retransmit.type = SYN_ACK;
	retransmit.segments = 1;
	retransmit.ca_state = NO_CA_STATE;
	retransmit.rto = retransmit.rtt = EV_NO_DURATION;
	retransmit.cwnd = retransmit.ssthresh = retransmit.unacked = EV_NO_NUMBER;
	return finish(ctx, &retransmit, listener);
}

ON_TRACEPOINT(tcp_retransmit_synack, synack, , synack_resent(ctx, listener, request, typed),
	      struct sock *listener, struct request_sock *request)

/* --tlp: the call of tcp_send_loss_probe() that a CPU is in, if it may send a probe. */
struct loss_probe {
	__u64 sk;
	__u32 sent; /* up to which sequence number, before */
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct loss_probe);
} probe_of_cpu SEC(".maps");

static __always_inline int probe_begins(struct sock *sk)
{
	struct loss_probe *probe = bpf_map_lookup_elem(&probe_of_cpu, &(__u32){ 0 });
	struct tcp_sock *tcp = (void *)sk;

	if (!probe)
		return 0;
	probe->sk = BPF_CORE_READ(tcp, tlp_high_seq) ? 0 : (__u64)sk; /* no second probe */
	probe->sent = BPF_CORE_READ(tcp, snd_nxt);
	return 0;
}

/* A probe that has sent old data again has shown by retransmit__*. */
static __always_inline int probe_ends(void *ctx)
{
	struct loss_probe *probe = bpf_map_lookup_elem(&probe_of_cpu, &(__u32){ 0 });
	struct retransmit retransmit;
	struct tcp_sock *tcp;

	tcp = probe ? (void *)probe->sk : NULL;
	if (!tcp || !BPF_CORE_READ(tcp, tlp_high_seq) ||
	    BPF_CORE_READ_BITFIELD_PROBED(tcp, tlp_retrans))
		return 0;
	probe->sk = 0;
	__builtin_memset(&retransmit, 0, sizeof(retransmit));
	put_socket(&retransmit, (void *)tcp, tcp, false);
	retransmit.type = NEW_DATA_PROBE;
	retransmit.seq = probe->sent;
	retransmit.bytes = BPF_CORE_READ(tcp, snd_nxt) - probe->sent;
	retransmit.segments = 1;
	return finish(ctx, &retransmit, (void *)tcp);
}

SEC("fentry/tcp_send_loss_probe")
int BPF_PROG(loss_probe__fexit__begin, struct sock *sk)
{
	return probe_begins(sk);
}

SEC("fexit/tcp_send_loss_probe")
int BPF_PROG(loss_probe__fexit__end, struct sock *sk)
{
	return probe_ends(ctx);
}

SEC("kprobe/tcp_send_loss_probe")
int BPF_KPROBE(loss_probe__kprobe__begin, struct sock *sk)
{
	return probe_begins(sk);
}

SEC("kretprobe/tcp_send_loss_probe")
int BPF_KRETPROBE(loss_probe__kprobe__end)
{
	return probe_ends(ctx);
}
