/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* struct bdi_writeback: a device, or a cgroup's share of it, whose dirty pages are written back. */
#ifndef DRIFT_WRITEBACK_BPF_H
#define DRIFT_WRITEBACK_BPF_H

#include "record.bpf.h"
#include "read.bpf.h"

/*
 * The cgroup whose pages are written, or NULL: kernels without CONFIG_CGROUP_WRITEBACK, and file
 * systems that do not take part in it, have one struct bdi_writeback for all cgroups.
 */
static __always_inline struct cgroup *writeback_cgroup(struct bdi_writeback *wb, bool typed)
{
	struct cgroup_subsys_state *css;
	struct cgroup *cgroup;

	if (!bpf_core_field_exists(wb->memcg_css))
		return NULL;
	css = READ(typed, wb, memcg_css);
	cgroup = READ(typed, css, cgroup);
	return READ(typed, cgroup, level) ? cgroup : NULL;
}

/*
 * Whose dirty pages they are: numbers that the kernel never gives again, unlike the address of a
 * struct bdi_writeback. Without cgroups, the numbers of these are 0.
 */
struct writeback_identity {
	__u64 bdi, memory_cgroup, io_cgroup;
};

static __always_inline struct writeback_identity writeback_identity(struct bdi_writeback *wb,
								    bool typed)
{
	struct backing_dev_info *bdi = READ(typed, wb, bdi);
	struct writeback_identity identity = { READ(typed, bdi, id) };

	if (bpf_core_field_exists(wb->memcg_css)) {
		struct cgroup_subsys_state *memory = READ(typed, wb, memcg_css);
		struct cgroup_subsys_state *io = READ(typed, wb, blkcg_css);

		identity.memory_cgroup = READ(typed, memory, serial_nr);
		identity.io_cgroup = READ(typed, io, serial_nr);
	}
	return identity;
}

/* The kernel's name for the device: major:minor of a disk, or such as "btrfs-1". */
static __always_inline void put_bdi_name(ev_disk *ret, struct bdi_writeback *wb, bool typed)
{
	struct backing_dev_info *bdi = READ(typed, wb, bdi);

	bpf_probe_read_kernel_str(ret, sizeof(*ret), bdi->dev_name);
}

/*
 * The name of the disk, or where there is none, that of put_bdi_name(). A pointer to a string can
 * be read by a helper only, whether it is typed or not.
 */
static __always_inline void put_writeback_device(ev_disk *ret, struct bdi_writeback *wb, bool typed)
{
	struct backing_dev_info *bdi = READ(typed, wb, bdi);
	struct device *disk = READ(typed, bdi, owner);

	if (disk)
		bpf_probe_read_kernel_str(ret, sizeof(*ret), READ(typed, disk, kobj.name));
	else
		put_bdi_name(ret, wb, typed);
}

/*
 * True for the work queue of the flushers, bdi_wq. The name is read by a helper, because its array
 * has another size on other kernels.
 */
static __always_inline bool is_of_flushers(struct pool_workqueue *pwq, bool typed)
{
	struct workqueue_struct *queue = READ(typed, pwq, wq);
	const char expected[] = "writeback";
	char name[sizeof(expected)] = {};

	bpf_probe_read_kernel(name, sizeof(name), queue->name);
#pragma unroll
	for (int i = 0; i < sizeof(name); i++) {
		if (name[i] != expected[i])
			return false;
	}
	return true;
}

/*
 * The interrupt of a timer tells nothing about the task that it has interrupted. There is none in
 * kernels without laptop mode, as v7.0 was seen to be.
 */
static __always_inline bool is_of_laptop_timer(__u32 reason)
{
	return bpf_core_enum_value_exists(enum wb_reason, WB_REASON_LAPTOP_TIMER) &&
	       reason == bpf_core_enum_value(enum wb_reason, WB_REASON_LAPTOP_TIMER);
}

/*
 * The device whose flusher is woken, by the work that is queued, to write all that is dirty; NULL
 * if the flusher is woken for another reason, or the work is another one.
 */
static __always_inline struct bdi_writeback *woken_writeback(struct pool_workqueue *pwq,
							     struct work_struct *work, bool typed)
{
	struct bdi_writeback *wb =
		(void *)work - bpf_core_field_offset(struct bdi_writeback, dwork.work);
	struct backing_dev_info *bdi;

	if (!is_of_flushers(pwq, typed))
		return NULL;
	/* The queue has works of another kind, too. A device refers to itself by its own share. */
	bdi = BPF_CORE_READ(wb, bdi);
	if (BPF_CORE_READ(bdi, wb.bdi) != bdi)
		return NULL;
	if (is_of_laptop_timer(BPF_CORE_READ(wb, start_all_reason)) ||
	    !(BPF_CORE_READ(wb, state) & 1 << bpf_core_enum_value(enum wb_state, WB_start_all)))
		return NULL;
	return wb;
}

#endif
