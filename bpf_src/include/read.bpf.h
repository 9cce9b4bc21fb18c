/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* One source for two rungs: loads where the verifier knows the pointer (tp_btf), else probe reads. */
#ifndef READ_BPF_H
#define READ_BPF_H

#include "record.bpf.h"

/*
 * A member of what FROM points to. TYPED is a constant after inlining. Loads are cheaper, and
 * lockdown=confidentiality allows them.
 */
#define READ(typed, from, member) ((typed) ? (from)->member : BPF_CORE_READ(from, member))

#endif
