/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The types of the members of records, and how a record reaches user space.
 *
 * A record is a struct with a tail behind it, which holds texts and stacks. Members such as ev_text
 * say where in the tail they are. A record is drafted in a per-CPU area, and then copied to the
 * ring in its true length.
 */
#ifndef RECORD_BPF_H
#define RECORD_BPF_H

#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

#define TEXT_MOST 4097 /* bytes that one text may take, its NUL included: PATH_MAX and one more */
#define COMM_LEN 16
#define DISK_LEN 32
#define NAME_LEN 64
#define EV_NO_RESULT __INT64_MAX__
#define EV_NO_NUMBER __INT64_MAX__
#define EV_NO_DURATION __UINT64_MAX__
#define EV_NO_BYTES __UINT64_MAX__
#define EV_NO_NAME __UINT32_MAX__
#define EV_NO_CODE __UINT64_MAX__
#define EV_NO_REASON __UINT32_MAX__
#define EV_NO_EXIT -1
#define EV_NO_TCP_FLAGS (1 << 31)
#define EV_NO_SYSCALL 0x7ffffffe
#define __maybe_unused __attribute__((unused))

enum ev_state {
	EV_WHOLE,
	EV_CUT,
	EV_UNREADABLE,
	EV_ABSENT,
	EV_ADDRESS, /* not the text itself, but 16 bytes of an address, as in ev_addr */
};

struct ev_part {
	__u32 at; /* from the start of the tail */
	__u16 length;
	__u16 state;
};

/* By the name of a member's type user space knows how to show it. */
typedef __u64 ev_time;		/* CLOCK_BOOTTIME, ns */
typedef __u64 ev_duration;	/* ns, or EV_NO_DURATION */
typedef __u64 ev_longest;	/* ns; in sums, where it is the greatest and is not added up */
typedef __u64 ev_count;		/* of events */
typedef __s64 ev_number;	/* or EV_NO_NUMBER */
typedef __u64 ev_bytes;		/* of memory, or EV_NO_BYTES */
typedef __s64 ev_ret;		/* a result, a negative errno, or EV_NO_RESULT */
typedef __s32 ev_exit;		/* a wait status, or EV_NO_EXIT */
typedef __u64 ev_load;		/* the time: user space reads the load averages at once */
/* Processes, and what they may do. */
typedef __u32 ev_uid;
typedef __u64 ev_cgroup;
typedef char ev_comm[COMM_LEN];
typedef __u32 ev_capability;
typedef __u32 ev_user_ns;	/* the inode of a user namespace */
/* System calls: twice the number, plus 1 for calls of 32-bit tasks; or EV_NO_SYSCALL. */
typedef __u32 ev_syscall;
typedef __u32 ev_open_flags;
typedef __u32 ev_at_flags;	/* of calls such as fstatat(2) */
typedef __u32 ev_mode;
typedef __u32 ev_lookup_function; /* enum function of gethostlatency.bpf.c */
typedef __u32 ev_lookup_result;
/* Signals. */
typedef __u32 ev_signal;
/* Number of a signal << 32 | what its si_code says of its origin; or EV_NO_CODE. */
typedef __u64 ev_signal_code;
typedef __u32 ev_signal_outcome; /* what became of a signal, or EV_NO_NAME */
typedef __u32 ev_signal_call;	/* the ev_syscall that sent a signal, or EV_NO_NAME */
/* Disks and memory. */
typedef char ev_disk[DISK_LEN];	/* the disk's name, or "-" */
typedef __u32 ev_operation;	/* of a block request: enum req_op */
typedef __u32 ev_request_flags; /* the same and bits of enum req_flag_bits */
typedef __u32 ev_writeback_reason; /* enum wb_reason */
typedef __u32 ev_oom_constraint; /* enum oom_constraint, or EV_NO_NAME */
typedef __u32 ev_gfp;		/* flags of an allocation, or EV_NO_NAME */
/* Connections. */
typedef __u32 ev_tcp_state;	/* or 0: there is no socket */
typedef __u32 ev_tcp_flags;	/* of a header, or EV_NO_TCP_FLAGS */
typedef __u32 ev_ca_state;	/* enum tcp_ca_state, or another number if there is none */
typedef __u32 ev_retransmit;	/* enum retransmit_type of tcpretrans.bpf.c */
typedef __u32 ev_drop_reason;	/* enum skb_drop_reason, or EV_NO_REASON */
typedef __u32 ev_addr[4];	/* as on the wire, IPv6 or ::ffff:IPv4 */
/* Texts and stacks. */
typedef char ev_name[NAME_LEN];	/* of a file, cut if it is longer */
typedef struct ev_part ev_text;
typedef struct ev_part ev_path; /* relative to the ev_dir before it, unless that is EV_ABSENT */
/* Names from the deepest directory upwards, each ended by NUL; the root has none. */
typedef struct ev_part ev_dir;
typedef struct ev_part ev_args; /* each ended by NUL */
typedef struct ev_part ev_stack; /* u64 addresses in the kernel, innermost first */
typedef struct ev_part ev_user_stack;

/*
 * RING(opens, open, 4 << 20) declares the map opens, a ring of records that are a struct open, and
 * opens_lost, the number of records that did not fit. put(opens, &open) submits a record without a
 * tail, and tells whether it fitted.
 */
#define RING(ring, kind, bytes)                                                                \
	struct {                                                                               \
		__uint(type, BPF_MAP_TYPE_RINGBUF);                                            \
		__uint(max_entries, bytes);                                                    \
		__type(record, struct kind);                                                   \
	} ring SEC(".maps");                                                                   \
	__u64 ring##_lost;                                                                     \
	static __always_inline __maybe_unused bool ring##_put(struct kind *record, __u64 size) \
	{                                                                                      \
		/* Without flags the kernel wakes the reader for the first record after it has \
		 * read all. A reader that pauses between reads is seldom woken. */            \
		bool lost = bpf_ringbuf_output(&ring, record, size, 0);                        \
		if (lost)                                                                      \
			__sync_fetch_and_add(&ring##_lost, 1);                                 \
		return !lost;                                                                  \
	}

#define put(ring, record) ring##_put(record, sizeof(*(record)))

/*
 * RECORDS(opens, open, 4 << 20, 8192) does the same, and declares the area in which records are
 * drafted that have a tail of up to about 8192 bytes, a power of two.
 */
#define RECORDS(ring, kind, bytes, tail_bytes)                                                 \
	RING(ring, kind, bytes)                                                                \
	struct ring##_draft {                                                                  \
		__u32 busy;                                                                    \
		__u32 used;                                                                    \
		struct kind record;                                                            \
		char tail[(tail_bytes) + TEXT_MOST];                                           \
	};                                                                                     \
	struct {                                                                               \
		__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);                                       \
		__uint(max_entries, 1);                                                        \
		__type(key, __u32);                                                            \
		__type(value, struct ring##_draft);                                            \
	} ring##_drafts SEC(".maps");                                                          \
	static __always_inline struct ring##_draft *ring##_reserve(void)                       \
	{                                                                                      \
		struct ring##_draft *draft = bpf_map_lookup_elem(&ring##_drafts, &(__u32){ 0 }); \
		/* It is busy if this program has interrupted another one during its draft. */ \
		if (!draft || draft->busy) {                                                   \
			__sync_fetch_and_add(&ring##_lost, 1);                                 \
			return NULL;                                                           \
		}                                                                              \
		draft->busy = 1;                                                               \
		draft->used = 0;                                                               \
		return draft;                                                                  \
	}                                                                                      \
	static __always_inline bool ring##_submit(struct ring##_draft *draft)                  \
	{                                                                                      \
		__u64 size = sizeof(struct kind) + draft->used;                                \
		bool sent = false;                                                             \
		if (size <= sizeof(struct kind) + (tail_bytes) + TEXT_MOST)                    \
			sent = ring##_put(&draft->record, size);                               \
		else                                                                           \
			__sync_fetch_and_add(&ring##_lost, 1);                                 \
		draft->busy = 0;                                                               \
		return sent;                                                                   \
	}                                                                                      \
	static __always_inline __maybe_unused void ring##_discard(struct ring##_draft *draft)  \
	{                                                                                      \
		draft->busy = 0;                                                               \
	}

#define reserve(ring) ring##_reserve()
#define submit(ring, draft) ring##_submit(draft)
#define discard(ring, draft) ring##_discard(draft)

#define TAIL_BYTES(draft) (sizeof((draft)->tail) - TEXT_MOST)

/* The tail of a draft, for functions that append to it, whatever the ring is. */
struct tail {
	char *bytes;
	__u32 *used;
	__u64 most;
};
#define tail_of(draft) ((struct tail){ (draft)->tail, &(draft)->used, TAIL_BYTES(draft) })

/*
 * The offset of the next part of the tail. Compare it with MOST before use. Without the barrier the
 * compiler might compare one register and use another, and the verifier would refuse that.
 */
static __always_inline __u64 used_of(struct tail tail)
{
	__u64 at = *tail.used;

	barrier_var(at);
	return at;
}
#define tail_at(draft) used_of(tail_of(draft))

/* For an empty string old kernels return 0 though they write a NUL, as was seen on v6.12. */
static __always_inline __s64 read_user_string(void *ret, __u32 size, const void *from)
{
	return bpf_probe_read_user_str(ret, size, from) ?: 1;
}

/* Append the string at FROM with a bpf_probe_read_*_str helper, and describe it in RET. */
#define __put_string(draft, ret, from, read)                                                   \
	({                                                                                     \
		__u64 __begin = tail_at(draft);                                                \
		__s64 __read = -1;                                                             \
		(ret)->at = __begin;                                                           \
		(ret)->length = 0;                                                             \
		(ret)->state = EV_CUT;                                                         \
		if (__begin < TAIL_BYTES(draft)) {                                             \
			__read = read((draft)->tail + __begin, TEXT_MOST, from);               \
			(ret)->state = __read == TEXT_MOST ? EV_CUT :                          \
				       __read > 0	   ? EV_WHOLE :                        \
							     EV_UNREADABLE;                    \
			if (__read > 0) {                                                      \
				(ret)->length = __read - 1;                                    \
				(draft)->used = __begin + __read - 1;                          \
			}                                                                      \
		}                                                                              \
		__read;                                                                        \
	})
#define put_user_string(draft, ret, from) __put_string(draft, ret, from, read_user_string)
#define put_kernel_string(draft, ret, from)                                                    \
	__put_string(draft, ret, from, bpf_probe_read_kernel_str)

/* Begin a part of several pieces. Each piece moves *used; finish_tail_part() ends the part. */
static __always_inline void begin_tail_part(struct tail tail, struct ev_part *ret, __u16 state)
{
	*ret = (struct ev_part){ .at = *tail.used, .state = state };
}
#define begin_part(draft, ret) begin_tail_part(tail_of(draft), ret, EV_WHOLE)

static __always_inline void finish_tail_part(struct tail tail, struct ev_part *ret)
{
	ret->length = *tail.used - ret->at;
}
#define finish_part(draft, ret) finish_tail_part(tail_of(draft), ret)

/* The text cannot be told. */
#define no_text(draft, ret)                                                                    \
	({                                                                                     \
		begin_part(draft, ret);                                                        \
		(ret)->state = EV_UNREADABLE;                                                  \
	})

/* The part does not exist, or was not asked for. */
#define no_part(ret) (*(ret) = (struct ev_part){ .state = EV_ABSENT })

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#endif
