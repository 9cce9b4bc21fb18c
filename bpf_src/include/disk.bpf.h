/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Of which disk events are wanted, by its name: --disk. */
#ifndef DISK_BPF_H
#define DISK_BPF_H

#include "record.bpf.h"

const volatile char filter_disk[DISK_LEN]; /* its name, NUL padded */

static __always_inline bool disk_filtered_out(const char *name)
{
	if (!filter_disk[0])
		return false;
	/* Up to the NUL: the kernel leaves other letters behind the names of SCSI disks. */
#pragma unroll
	for (int i = 0; i < DISK_LEN; i++) {
		if (name[i] != filter_disk[i])
			return true;
		if (!filter_disk[i])
			break;
	}
	return false;
}

#endif
