/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What every tool at system calls must cost at least: a program that does nothing. */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>

SEC("raw_tp/sys_exit")
int floor__raw_tp(void *ctx)
{
	return 0;
}

const char LICENSE[] SEC("license") = "GPL";
