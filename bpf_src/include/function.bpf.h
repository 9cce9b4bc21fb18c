/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A function of user space that is entered or returns: its arguments, its result, and where on the
 * stack it was called. A 32-bit program on x86 passes arguments on the stack.
 */
#ifndef FUNCTION_BPF_H
#define FUNCTION_BPF_H

#include "record.bpf.h"

/* A value on the stack of the current task; 0 if it cannot be read. */
static __always_inline __u64 user_value(__u64 address, __u32 size)
{
	__u64 value = 0;

	bpf_probe_read_user(&value, size, (void *)address);
	return value;
}

static __always_inline __u64 user_pointer(__u64 address, __u32 pointer_size)
{
	/* v5.10's verifier wants constants. */
	return pointer_size == 4 ? user_value(address, 4) : user_value(address, 8);
}

#if defined(__TARGET_ARCH_x86)

#define USER32_CS 0x23 /* __USER32_CS: the code segment of 32-bit programs */

/*
 * Those of struct pt_regs, whose layout programs may rely on. Types of vmlinux.h would be relocated,
 * and then the verifier refuses some of the loads that clang makes.
 */
struct registers {
	__u64 r15, r14, r13, r12, bp, bx, r11, r10, r9, r8, ax, cx, dx, si, di;
	__u64 orig_ax, ip;
	__u16 cs, cs_padding[3];
	__u64 flags, sp, ss;
};

/* How many bytes a pointer has in the code that runs. */
static __always_inline __u32 pointer_size(const struct registers *regs)
{
	return regs->cs == USER32_CS ? 4 : 8;
}

/* The argument of that number, counted from 0, when the function is entered. */
static __always_inline __u64 function_argument(const struct registers *regs, __u32 pointer_size,
					       int number)
{
	if (pointer_size == 4)
		return user_value(regs->sp + 4 * (1 + number), 4);
	switch (number) {
	case 0:
		return regs->di;
	case 1:
		return regs->si;
	case 2:
		return regs->dx;
	case 3:
		return regs->cx;
	case 4:
		return regs->r8;
	case 5:
		return regs->r9;
	default:
		return user_value(regs->sp + 8 * (1 + number - 6), 8);
	}
}

static __always_inline __u64 function_result(const struct registers *regs, __u32 pointer_size)
{
	return pointer_size == 4 ? (__u32)regs->ax : regs->ax;
}

static __always_inline __u64 return_address(const struct registers *regs, __u32 pointer_size)
{
	return user_pointer(regs->sp, pointer_size);
}

/* The stack pointer that the function was entered with. To return took its address off the stack. */
static __always_inline __u64 entry_stack_pointer(const struct registers *regs, __u32 pointer_size)
{
	return regs->sp - pointer_size;
}

#elif defined(__TARGET_ARCH_arm64)

struct registers { /* of struct user_pt_regs */
	__u64 regs[31];
	__u64 sp, pc, pstate;
};

/* The kernel probes no 32-bit programs. */
static __always_inline __u32 pointer_size(const struct registers *regs)
{
	return 8;
}

static __always_inline __u64 function_argument(const struct registers *regs, __u32 pointer_size,
					       int number)
{
	return regs->regs[number];
}

static __always_inline __u64 function_result(const struct registers *regs, __u32 pointer_size)
{
	return regs->regs[0];
}

static __always_inline __u64 return_address(const struct registers *regs, __u32 pointer_size)
{
	return regs->regs[30];
}

static __always_inline __u64 entry_stack_pointer(const struct registers *regs, __u32 pointer_size)
{
	return regs->sp;
}

#endif

/*
 * True if another probed function ends with a jump to the one that is entered: this returns to where
 * the kernel catches returns, and then both have returned.
 */
static __always_inline bool is_tail_call(const struct registers *regs, __u32 pointer_size)
{
	struct task_struct *task = (void *)bpf_get_current_task();

	return return_address(regs, pointer_size) == BPF_CORE_READ(task, mm, uprobes_state.xol_area, vaddr);
}

#endif
