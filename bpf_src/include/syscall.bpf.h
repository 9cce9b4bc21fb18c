/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * System calls, as they are seen when they return. The arguments are still in the registers that
 * the task saved, so nothing has to be kept in between, and the kernel has read what they point to.
 */
#ifndef SYSCALL_BPF_H
#define SYSCALL_BPF_H

#include "record.bpf.h"
#include "syscalls.h"

#define ENOSYS 38
#define THREAD_SIZE 16384
#define PF_IO_WORKER 0x00000010
#define PF_KTHREAD 0x00200000
#define NO_SYSCALL __INT64_MAX__

struct syscall {
	__s64 number;
	__u64 args[5];
	bool compat; /* of a 32-bit task: such calls have other numbers */
	__u8 kind; /* set by is_of_kinds() */
};

/* The upper halves of registers are no part of the arguments of a 32-bit call. */
static __always_inline void cut_arguments(struct syscall *call)
{
	if (!call->compat)
		return;
#pragma unroll
	for (int i = 0; i < 5; i++)
		call->args[i] = (__u32)call->args[i];
}

#if defined(__TARGET_ARCH_x86)

#define TS_COMPAT 2
#define SYSCALL_FUNCTION(name) __x64_sys_##name

/* READ(x) is either x itself, if the verifier knows the pointer, or a probe read. */
#define __syscall_read(call, regs, READ)                                                       \
	({                                                                                     \
		(call)->args[0] = (call)->compat ? READ(regs->bx) : READ(regs->di);            \
		(call)->args[1] = (call)->compat ? READ(regs->cx) : READ(regs->si);            \
		(call)->args[2] = READ(regs->dx);                                              \
		(call)->args[3] = (call)->compat ? READ(regs->si) : READ(regs->r10);           \
		(call)->args[4] = (call)->compat ? READ(regs->di) : READ(regs->r8);            \
		cut_arguments(call);                                                           \
	})
#define __syscall_number(regs, READ) READ(regs->orig_ax)

static __always_inline bool syscall_is_compat(void)
{
	struct task_struct *task = (void *)bpf_get_current_task();

	return BPF_CORE_READ(task, thread_info.status) & TS_COMPAT;
}

/* The same, with direct loads if TYPED is true and the kernel has bpf_get_current_task_btf(). */
static __always_inline bool typed_syscall_is_compat(struct pt_regs *regs, bool typed)
{
	if (typed && bpf_core_enum_value_exists(enum bpf_func_id, BPF_FUNC_get_current_task_btf))
		return bpf_get_current_task_btf()->thread_info.status & TS_COMPAT;
	return syscall_is_compat();
}

#elif defined(__TARGET_ARCH_arm64)

#define _TIF_32BIT (1 << 22)
#define SYSCALL_FUNCTION(name) __arm64_sys_##name
#define PSR_MODE32 0x10

#define __syscall_read(call, regs, READ)                                                       \
	({                                                                                     \
		(call)->args[0] = READ(regs->orig_x0);                                         \
		(call)->args[1] = READ(regs->user_regs.regs[1]);                               \
		(call)->args[2] = READ(regs->user_regs.regs[2]);                               \
		(call)->args[3] = READ(regs->user_regs.regs[3]);                               \
		(call)->args[4] = READ(regs->user_regs.regs[4]);                               \
	})
#define __syscall_number(regs, READ) READ(regs->syscallno)

static __always_inline bool syscall_is_compat(void)
{
	struct task_struct *task = (void *)bpf_get_current_task();

	return BPF_CORE_READ(task, thread_info.flags) & _TIF_32BIT;
}

static __always_inline bool typed_syscall_is_compat(struct pt_regs *regs, bool typed)
{
	return typed ? regs->pstate & PSR_MODE32 : syscall_is_compat();
}

#endif

/* The ev_syscall of a number. REGS are those of the current task. */
static __always_inline ev_syscall this_syscall(struct pt_regs *regs, __u32 number, bool typed)
{
	return number << 1 | typed_syscall_is_compat(regs, typed);
}

/* The registers that the current task saved when it entered the kernel; not for kernel threads. */
static __always_inline struct pt_regs *current_registers(void)
{
	/* The helper came with Linux commit dd6e10fbd9fb ("bpf: Add bpf_task_pt_regs() helper")
	 * (in v5.15); before it, no kernel padded the top of the stack. */
	if (bpf_core_enum_value_exists(enum bpf_func_id, BPF_FUNC_task_pt_regs))
		return (void *)bpf_task_pt_regs(bpf_get_current_task_btf());
	return (void *)BPF_CORE_READ((struct task_struct *)bpf_get_current_task(), stack) +
	       THREAD_SIZE - bpf_core_type_size(struct pt_regs);
}

/*
 * SYSCALL_KINDS(stat_calls) is an array of a byte for each number of a call, 0 for unwanted ones:
 * SYSCALL_KINDS(stat_calls) = { [SYSCALL_INDEX(SYS_stat)] = STAT }. Beside it there is one for the
 * calls of 32-bit tasks. The last element is that of calls which an architecture lacks.
 */
#pragma clang diagnostic ignored "-Winitializer-overrides" /* several calls may be lacking */
#define SYSCALLS_MOST 512 /* above the number of every call */
#define SYSCALL_INDEX(number) ((number) < 0 ? SYSCALLS_MOST : (number))
#define SYSCALL_KINDS(name) static const volatile __u8 name[SYSCALLS_MOST + 1]

/* What KINDS tells of the number of a call, 0 for what it does not have. */
static __always_inline __u8 syscall_kind(const volatile __u8 *kinds, __s64 number)
{
	__u64 at = number;

	barrier_var(at); /* v5.10's verifier needs the bound right before its use */
	return at < SYSCALLS_MOST ? kinds[at] : 0;
}

/* True if one of the arrays has the number of CALL. Sets compat and kind of CALL. */
static __always_inline bool is_of_kinds(struct syscall *call, const volatile __u8 *native,
					const volatile __u8 *compat)
{
	__u8 native_kind = syscall_kind(native, call->number);
	__u8 compat_kind = syscall_kind(compat, call->number);

	if (!native_kind && !compat_kind)
		return false;
	call->compat = syscall_is_compat();
	call->kind = call->compat ? compat_kind : native_kind;
	return call->kind;
}

/* The ev_syscall of a call whose compat is set. */
static __always_inline ev_syscall syscall_of(const struct syscall *call)
{
	return call->number << 1 | call->compat;
}

/* IS_SYSCALL(connect) defines is_connect(struct syscall *), which tests the number, sets compat. */
#define IS_SYSCALL(name)                                                                       \
	static __always_inline bool is_##name(struct syscall *call)                            \
	{                                                                                      \
		if (call->number != SYS_##name && call->number != COMPAT_##name)               \
			return false;                                                          \
		call->compat = syscall_is_compat();                                            \
		return call->number == (call->compat ? COMPAT_##name : SYS_##name);            \
	}

#define READ_DIRECTLY(x) (x)
#define READ_BY_PROBE(x)                                                                       \
	({                                                                                     \
		typeof(x) __x = 0;                                                             \
		bpf_core_read(&__x, sizeof(__x), &(x));                                        \
		__x;                                                                           \
	})

/* The number of the call that the current task is in; NO_SYSCALL for kernel threads. */
static __always_inline __s64 current_syscall(void)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct pt_regs *regs;

	if (BPF_CORE_READ(task, flags) & (PF_KTHREAD | PF_IO_WORKER))
		return NO_SYSCALL;
	regs = current_registers();
	return (__s32)__syscall_number(regs, READ_BY_PROBE);
}

/* The ev_syscall of that call. The kernel puts a negative number where a fault or interrupt began. */
static __always_inline ev_syscall current_ev_syscall(void)
{
	__s64 number = current_syscall();

	if (number == NO_SYSCALL || (int)number < 0)
		return EV_NO_SYSCALL;
	return (__u32)number << 1 | syscall_is_compat();
}

/*
 * Which call has returned. On x86, kernels such as v6.1 take the lower half of the number, whatever
 * is in the upper one. For others, such as v5.10, it is then the number of no call.
 */
static __always_inline __s64 made_syscall(__s64 number, __s64 ret)
{
	__s32 lower = number;

	return lower != number && ret == -ENOSYS ? NO_SYSCALL : lower;
}

/*
 * The rungs of a ladder that sees system calls return. WANTED(struct syscall *) tests the number
 * and sets compat; RETURNED(ctx, const struct syscall *, ret) is called for the calls it wants.
 */
#define ON_SYSCALL_EXIT(ladder, wanted, returned)                                              \
	SEC("tp_btf/sys_exit")                                                                 \
	int BPF_PROG(ladder##__tp_btf, struct pt_regs *regs, long ret)                         \
	{                                                                                      \
		struct syscall call = {                                                        \
			.number = made_syscall(__syscall_number(regs, READ_DIRECTLY), ret),    \
		};                                                                             \
		if (!wanted(&call))                                                            \
			return 0;                                                              \
		__syscall_read(&call, regs, READ_DIRECTLY);                                    \
		return returned(ctx, &call, ret);                                              \
	}                                                                                      \
	SEC("raw_tp/sys_exit")                                                                 \
	int BPF_PROG(ladder##__raw_tp, struct pt_regs *regs, long ret)                         \
	{                                                                                      \
		struct syscall call = {                                                        \
			.number = made_syscall(__syscall_number(regs, READ_BY_PROBE), ret),    \
		};                                                                             \
		if (!wanted(&call))                                                            \
			return 0;                                                              \
		__syscall_read(&call, regs, READ_BY_PROBE);                                    \
		return returned(ctx, &call, ret);                                              \
	}

/* The rungs of a ladder that sees system calls begin: ENTERED is evaluated for those WANTED. */
#define ON_SYSCALL_ENTER(ladder, wanted, entered)                                              \
	SEC("tp_btf/sys_enter")                                                                \
	int BPF_PROG(ladder##__tp_btf, struct pt_regs *regs, long number)                      \
	{                                                                                      \
		struct syscall call = { .number = (__s32)number };                             \
		return wanted(&call) ? entered : 0;                                            \
	}                                                                                      \
	SEC("raw_tp/sys_enter")                                                                \
	int BPF_PROG(ladder##__raw_tp, struct pt_regs *regs, long number)                      \
	{                                                                                      \
		struct syscall call = { .number = (__s32)number };                             \
		return wanted(&call) ? entered : 0;                                            \
	}

#endif
