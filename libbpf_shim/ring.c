/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The reader's side of a BPF ring buffer. libbpf's own consumer has consumed a record before its
 * callback can refuse it, so this one reads the mapped ring itself.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include "shim.h"
#include "ring.h"

#define BUSY_BIT (1u << 31)
#define DISCARD_BIT (1u << 30)
#define HEADER 8 /* u32 length with the bits above, u32 page offset */

void ring_close(struct ring *ring)
{
	long page = sysconf(_SC_PAGESIZE);

	if (ring->consumer)
		munmap((void *)ring->consumer, page);
	if (ring->producer)
		munmap((void *)ring->producer, ring->mapped);
	ring->consumer = ring->producer = NULL;
}

int shim_ring_open(shim *object, const char *name)
{
	struct bpf_map *map = bpf_object__find_map_by_name(object->bpf, name);
	struct ring *ring = &object->ring;
	long page = sysconf(_SC_PAGESIZE);
	void *memory;

	if (!map || bpf_map__type(map) != BPF_MAP_TYPE_RINGBUF)
		return -ENOENT;
	ring->fd = bpf_map__fd(map);
	ring->mask = bpf_map__max_entries(map) - 1;
	memory = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_SHARED, ring->fd, 0);
	if (memory == MAP_FAILED)
		return -errno;
	ring->consumer = memory;
	ring->mapped = page + (size_t)bpf_map__max_entries(map);
	memory = mmap(NULL, ring->mapped, PROT_READ, MAP_SHARED, ring->fd, page);
	if (memory == MAP_FAILED) {
		int error = -errno;

		ring_close(ring);
		return error;
	}
	ring->producer = memory;
	ring->data = (char *)memory + page;
	return 0;
}

/*
 * Copy from the ring, which is mapped once: the kernel would map it twice in a row, which spares
 * this function but counts all its memory twice.
 */
static void copy(const struct ring *ring, void *to, uint64_t from, size_t size)
{
	size_t begin = from & ring->mask, until_end = ring->mask + 1 - begin;

	memcpy(to, ring->data + begin, size < until_end ? size : until_end);
	if (size > until_end)
		memcpy((char *)to + until_end, ring->data, size - until_end);
}

/*
 * The producer's position is read once: chasing it would make the kernel wake us for every record
 * written meanwhile. The consumer's is stored once, when all that was copied may be overwritten.
 */
int shim_read(shim *object, void *buffer, size_t size, size_t *ret)
{
	struct ring *ring = &object->ring;
	char *to = buffer;
	size_t filled = 0;

	*ret = 0;
	if (!ring->consumer)
		return -EBADF;

	uint64_t at = __atomic_load_n(ring->consumer, __ATOMIC_RELAXED);
	uint64_t end = __atomic_load_n(ring->producer, __ATOMIC_ACQUIRE);

	while (at < end) {
		const char *record = ring->data + (at & ring->mask);
		uint32_t header = __atomic_load_n((const uint32_t *)record, __ATOMIC_ACQUIRE);
		uint32_t length = header & ~(BUSY_BIT | DISCARD_BIT);
		size_t padded = (length + 7) / 8 * 8;

		if (header & BUSY_BIT)
			break;
		if (!(header & DISCARD_BIT)) {
			if (filled + HEADER + padded > size) {
				if (!filled)
					return -EMSGSIZE;
				break;
			}
			memcpy(to + filled, &(uint64_t){ length }, HEADER);
			copy(ring, to + filled + HEADER, at + HEADER, padded);
			filled += HEADER + padded;
		}
		at += HEADER + padded;
	}
	__atomic_store_n(ring->consumer, at, __ATOMIC_RELEASE);
	*ret = filled;
	return 0;
}

static int64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static int64_t deadline_in(int64_t timeout)
{
	return timeout < 0 ? -1 : now_ms() + timeout;
}

/* For poll(): -1 where there is no deadline. */
static int ms_until(int64_t deadline)
{
	int64_t left = deadline < 0 ? -1 : deadline - now_ms();

	return left > INT_MAX ? INT_MAX : left < 0 && deadline >= 0 ? 0 : left;
}

int shim_wait(shim *object, int wake, int out, int target, int64_t timeout)
{
	int64_t deadline = deadline_in(timeout);
	struct pollfd fds[] = {
		{ .fd = object && object->ring.consumer ? object->ring.fd : -1, .events = POLLIN },
		{ .fd = wake, .events = POLLIN },
		{ .fd = out }, /* POLLERR is told unasked */
		{ .fd = target, .events = POLLIN },
	};

	for (;;) {
		int left = ms_until(deadline);
		int ready = poll(fds, 4, left);

		if (ready < 0 && errno != EINTR)
			return -errno;
		if (ready > 0) {
			if (fds[1].revents)
				return -EINTR;
			if (fds[2].revents & (POLLERR | POLLNVAL))
				return -EPIPE;
			if (fds[3].revents)
				return -ESRCH;
			if (fds[0].revents)
				return 0;
			fds[2].fd = -1; /* a hang-up that is no error would be told for ever */
		} else if (!left) {
			return -ETIME;
		}
	}
}

int shim_write(int fd, const char *text, size_t size, int wake, int64_t timeout, size_t *ret)
{
	int64_t deadline = deadline_in(timeout);
	struct pollfd fds[] = { { .fd = fd, .events = POLLOUT }, { .fd = wake, .events = POLLIN } };

	for (*ret = 0; *ret < size;) {
		int left = ms_until(deadline);
		int ready = poll(fds, 2, left);
		ssize_t wrote;

		if (ready < 0 && errno != EINTR)
			return -errno;
		if (ready > 0 && fds[1].revents)
			return -EINTR;
		if (!ready && !left)
			return -ETIME;
		if (ready <= 0)
			continue;
		/* A pipe that is ready takes PIPE_BUF bytes without blocking. */
		wrote = write(fd, text + *ret, size - *ret > PIPE_BUF ? PIPE_BUF : size - *ret);
		if (wrote < 0 && errno != EINTR && errno != EAGAIN)
			return -errno;
		if (wrote > 0)
			*ret += wrote;
	}
	return 0;
}
