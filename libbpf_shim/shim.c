/* SPDX-License-Identifier: BSD-2-Clause */
/* Objects, and what else libbpf has no function for; Python calls its other ones: bindings.h. */
#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <linux/magic.h>
#include <linux/membarrier.h>
#include <linux/perf_event.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include "shim.h"
#include "handlers.h"

static char log_text[1 << 16];
static size_t log_used;

/* Keep the first 64 KB: what went wrong first is what matters. */
static int log_print(enum libbpf_print_level level, const char *format, va_list args)
{
	size_t room = sizeof(log_text) - log_used;
	int length;

	if (level == LIBBPF_DEBUG || room < 2)
		return 0;
	length = vsnprintf(log_text + log_used, room, format, args);
	if (length > 0)
		log_used += (size_t)length < room ? (size_t)length : room - 1;
	return 0;
}

size_t shim_log_take(char *buffer, size_t size)
{
	size_t taken = log_used < size ? log_used : size;

	memcpy(buffer, log_text, taken);
	log_used = 0;
	return taken;
}

static void register_handlers(void)
{
	types_register();
	uprobes_register();
}

struct bpf_object *shim_open(const void *bytes, size_t size, int types)
{
	static pthread_once_t registered = PTHREAD_ONCE_INIT;
	char path[32];
	/* relaxed_maps: a ring's definition names its record in a member of its own. */
	LIBBPF_OPTS(bpf_object_open_opts, options, .relaxed_maps = true, .object_name = "tracewheel",
		    .btf_custom_path = types < 0 ? NULL : path);

#ifdef __GLIBC__
	/* Give large blocks, such as the kernel's BTF, back when they are freed. */
	mallopt(M_MMAP_THRESHOLD, 128 * 1024);
#endif
	libbpf_set_print(log_print);
	pthread_once(&registered, register_handlers);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", types);
	return bpf_object__open_mem(bytes, size, &options);
}

/*
 * Some hardened kernels refuse every fentry and fexit program before they look at it. An empty
 * program for a type that is no function tells: -EPERM there, -EINVAL elsewhere.
 */
int shim_refuses_trampolines(void)
{
	struct bpf_insn nothing[] = { { .code = BPF_ALU64 | BPF_MOV | BPF_K },
				      { .code = BPF_JMP | BPF_EXIT } };
	LIBBPF_OPTS(bpf_prog_load_opts, options, .expected_attach_type = BPF_TRACE_FEXIT,
		    .attach_btf_id = 1);
	int fd = bpf_prog_load(BPF_PROG_TYPE_TRACING, "probe", "GPL", nothing, 2, &options);

	if (fd >= 0)
		close(fd);
	return fd == -EPERM;
}

int shim_start_clock(int cpu, uint32_t frequency, int program)
{
	struct perf_event_attr clock = { .type = PERF_TYPE_SOFTWARE, .config = PERF_COUNT_SW_CPU_CLOCK,
					 .size = sizeof(clock), .freq = 1, .sample_freq = frequency,
					 .read_format = PERF_FORMAT_TOTAL_TIME_ENABLED };
	int fd = syscall(SYS_perf_event_open, &clock, -1, cpu, -1, PERF_FLAG_FD_CLOEXEC);

	if (fd >= 0 && ioctl(fd, PERF_EVENT_IOC_SET_BPF, program)) {
		close(fd);
		return -errno;
	}
	return fd < 0 ? -errno : fd;
}

int shim_is_overlay(int fd)
{
	struct statfs system;

	return !fstatfs(fd, &system) && system.f_type == OVERLAYFS_SUPER_MAGIC;
}

void shim_sum(void *values, uint32_t count, uint32_t value_size, uint64_t greatest)
{
	uint32_t words = value_size / 8, cpus = libbpf_num_possible_cpus();
	uint64_t *to = values;
	const uint64_t *from = values;

	for (; count--; to += words, from += words * cpus) {
		memmove(to, from, value_size);
		for (uint32_t word = words; word < words * cpus; word++) {
			uint64_t *sum = to + word % words;

			if (!(greatest >> word % words & 1))
				*sum += from[word];
			else if (*sum < from[word])
				*sum = from[word];
		}
	}
}

/* Programs run in RCU's read sections, and this waits for them on all CPUs. */
void shim_settle(void)
{
	syscall(SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0);
}
