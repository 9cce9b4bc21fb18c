/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "record.bpf.h"
#include "filter.bpf.h"
#include "glob.bpf.h"
#include "uprobe.bpf.h"

struct command {
	ev_time time;
	__u32 pid;
	ev_uid uid;
	ev_cgroup cgroup;
	ev_comm comm;
	ev_text command;
};

RECORDS(commands, command, 512 << 10, 64);
ON_ARRIVAL(commands)

/* readline() returns NULL at the end of the input. */
static __always_inline int line_read(const char *line)
{
	__u64 pid_tgid = bpf_get_current_pid_tgid();
	struct commands_draft *draft;

	if (!line || filtered_out(pid_tgid) || !runs_probed_program())
		return 0;
	draft = reserve(commands);
	if (!draft)
		return 0;

	struct command *command = &draft->record;

	command->time = bpf_ktime_get_boot_ns();
	command->pid = pid_tgid >> 32;
	command->uid = bpf_get_current_uid_gid();
	command->cgroup = current_cgroup();
	bpf_get_current_comm(command->comm, sizeof(command->comm));
	put_user_string(draft, &command->command, line);
	if (glob_filtered_out(draft->tail, command->command.length))
		discard(commands, draft);
	else
		submit(commands, draft);
	return 0;
}

SEC("uretprobe.multi")
int BPF_KRETPROBE(command__uretprobe_multi, const char *line)
{
	USE_KERNEL_STACK(ctx);
	return line_read(line);
}

/* Linux commit 89ae89f53d20 ("bpf: Add multi uprobe link") (in v6.6) */
SEC("uretprobe")
int BPF_KRETPROBE(command__uretprobe, const char *line)
{
	USE_KERNEL_STACK(ctx);
	return line_read(line);
}
