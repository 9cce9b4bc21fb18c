/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Probes of functions of user space by links of their own kind, which libbpf has from 1.3 on. Such
 * a link ends after one wait for the programs that run; a perf event waits for several kinds of
 * them, and keeps all other events of the machine waiting meanwhile.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include "shim.h"
#include "handlers.h"

/* Linux commit 89ae89f53d20 ("bpf: Add multi uprobe link") (in v6.6). */
#define UPROBE_MULTI 48 /* BPF_TRACE_UPROBE_MULTI */
#define RETURNS 1	/* BPF_F_UPROBE_MULTI_RETURN */

#define THREADS_MOST 64

/* The part of union bpf_attr for this kind of link. */
struct link_attributes {
	uint32_t program, target, kind, flags;
	uint64_t path, offsets, reference_counts, cookies;
	uint32_t count, uprobe_flags, pid, padding;
};

void uprobes_register(void)
{
	libbpf_register_prog_handler("uprobe.multi", BPF_PROG_TYPE_KPROBE, UPROBE_MULTI, NULL);
	libbpf_register_prog_handler("uretprobe.multi", BPF_PROG_TYPE_KPROBE, UPROBE_MULTI, NULL);
}

int shim_link_uprobe(int program, const char *path, const uint64_t *offsets, uint32_t count,
		     int returns)
{
	const struct link_attributes attributes = {
		.program = program, .kind = UPROBE_MULTI, .path = (uintptr_t)path,
		.offsets = (uintptr_t)offsets, .count = count, .uprobe_flags = returns ? RETURNS : 0,
	};
	int fd = syscall(SYS_bpf, BPF_LINK_CREATE, &attributes, sizeof(attributes));

	return fd < 0 ? -errno : fd;
}

/* Where there are such links, one in a directory is refused for that: -EBADF. */
int shim_refuses_uprobe_links(void)
{
	const struct bpf_insn nothing[] = { { .code = BPF_ALU64 | BPF_MOV | BPF_K },
					    { .code = BPF_JMP | BPF_EXIT } };
	LIBBPF_OPTS(bpf_prog_load_opts, options, .expected_attach_type = UPROBE_MULTI);
	int program = bpf_prog_load(BPF_PROG_TYPE_KPROBE, "probe", "GPL", nothing, 2, &options);
	int link;

	if (program < 0)
		return 1;
	link = shim_link_uprobe(program, "/", &(uint64_t){ 0 }, 1, 0);
	close(program);
	if (link >= 0)
		close(link);
	return link != -EBADF;
}

struct closing {
	pthread_rwlock_t *gate;
	pthread_t thread;
	int fd;
};

static void *close_at_gate(void *data)
{
	const struct closing *closing = data;

	pthread_rwlock_rdlock(closing->gate);
	pthread_rwlock_unlock(closing->gate);
	close(closing->fd);
	return NULL;
}

/* Close some descriptors, each in a thread of its own where there can be one, all of them at once. */
static void close_at_once(const int *fds, uint32_t count)
{
	pthread_rwlock_t gate = PTHREAD_RWLOCK_INITIALIZER;
	struct closing closings[THREADS_MOST];
	uint32_t started = 0;

	pthread_rwlock_wrlock(&gate);
	for (; started + 1 < count; started++) {
		closings[started] = (struct closing){ .gate = &gate, .fd = fds[started] };
		if (pthread_create(&closings[started].thread, NULL, close_at_gate,
				   &closings[started]))
			break;
	}
	pthread_rwlock_unlock(&gate);
	for (uint32_t i = started; i < count; i++)
		close(fds[i]);
	for (uint32_t i = 0; i < started; i++)
		pthread_join(closings[i].thread, NULL);
}

void shim_close_links(const int *fds, uint32_t count)
{
	for (uint32_t at = 0; at < count; at += THREADS_MOST)
		close_at_once(fds + at, count - at < THREADS_MOST ? count - at : THREADS_MOST);
}
