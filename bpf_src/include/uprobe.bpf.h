/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Functions of programs and libraries, which are probed in every file that has them. User space
 * attaches the programs of the sections uprobe, uretprobe, uprobe.multi and uretprobe.multi. The
 * programs of this header tell it of each process that may run another file.
 */
#ifndef UPROBE_BPF_H
#define UPROBE_BPF_H

#include "record.bpf.h"
#include "read.bpf.h"

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} no_programs SEC(".maps");

const volatile bool probed_never; /* it stays false */

/*
 * The first statement of each program for a function of user space. It does nothing, but a program
 * with a tail call, even one that is never made, works on the kernel's stack. Since Linux commit
 * 7d1cd70d4b16 ("bpf, x86: Support private stack in jit") (in v6.13) others that need 64 bytes have
 * their stack in memory of the CPU. But such a program can be preempted, and another run on the CPU
 * then overwrites it: on v7.2 one lookup of ten was seen to be lost or garbled.
 */
#define USE_KERNEL_STACK(ctx)                                                                  \
	({                                                                                     \
		if (probed_never)                                                              \
			bpf_tail_call(ctx, &no_programs, 0);                                   \
	})

/* The file name of the program, 16 bytes, NUL padded; empty for any program. */
const volatile __u64 probed_program[2];

static __always_inline bool is_probed_program(const unsigned char *file_name)
{
	__u64 name[2] = {};

	if (!probed_program[0])
		return true;
	bpf_probe_read_kernel_str(name, sizeof(name), file_name);
	return name[0] == probed_program[0] && name[1] == probed_program[1];
}

/* A library's function is called by programs of all kinds. */
static __always_inline bool runs_probed_program(void)
{
	struct task_struct *task = (void *)bpf_get_current_task();

	return is_probed_program(BPF_CORE_READ(task, mm, exe_file, f_path.dentry, d_name.name));
}

/*
 * Where all programs count, the reader that was woken looks at new processes 5 ms later, and reads
 * the ring again then. So there is no need to wake it for other processes before.
 */
#define ARRIVALS_TOGETHER_NS 4000000

/*
 * The programs of the ladder "arrival". When a process begins to run the probed program, they put
 * its pid into RING, as four bytes: every record is longer than that.
 */
#define ON_ARRIVAL(ring)                                                                       \
	__u64 arrivals_lost;                                                                   \
	__u64 arrivals_told; /* when the reader was woken last */                              \
	static __always_inline int arrived(struct linux_binprm *bprm, bool typed)              \
	{                                                                                      \
		struct file *file = READ(typed, bprm, file);                                   \
		struct dentry *dentry = READ(typed, file, f_path.dentry);                      \
		__u32 pid = bpf_get_current_pid_tgid() >> 32;                                  \
		__u64 now = bpf_ktime_get_ns(), wake_up = 0;                                   \
		if (!is_probed_program(READ(typed, dentry, d_name.name)))                      \
			return 0;                                                              \
		if (!probed_program[0] && now - arrivals_told < ARRIVALS_TOGETHER_NS)          \
			wake_up = BPF_RB_NO_WAKEUP;                                            \
		else                                                                           \
			arrivals_told = now;                                                   \
		if (bpf_ringbuf_output(&ring, &pid, sizeof(pid), wake_up))                     \
			__sync_fetch_and_add(&arrivals_lost, 1);                               \
		return 0;                                                                      \
	}                                                                                      \
	SEC("tp_btf/sched_process_exec")                                                       \
	int BPF_PROG(arrival__tp_btf, struct task_struct *task, int old_pid,                   \
		     struct linux_binprm *bprm)                                                \
	{                                                                                      \
		return arrived(bprm, true);                                                    \
	}                                                                                      \
	SEC("raw_tp/sched_process_exec")                                                       \
	int BPF_PROG(arrival__raw_tp, struct task_struct *task, int old_pid,                   \
		     struct linux_binprm *bprm)                                                \
	{                                                                                      \
		return arrived(bprm, false);                                                   \
	}

#endif
