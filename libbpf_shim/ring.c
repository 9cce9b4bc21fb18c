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
#include <time.h>
#include <unistd.h>
#include "shim.h"

#define BUSY_BIT (1u << 31)
#define DISCARD_BIT (1u << 30)
#define HEADER 8 /* u32 length with the bits above, u32 page offset */

/*
 * Copy from the ring, which is mapped once: the kernel would map it twice in a row, which spares
 * this function but counts all its memory twice.
 */
static void copy(const struct shim_ring *ring, void *to, uint64_t from, size_t size)
{
	size_t begin = from & ring->mask, until_end = ring->mask + 1 - begin;

	memcpy(to, ring->data + begin, size < until_end ? size : until_end);
	if (size > until_end)
		memcpy((char *)to + until_end, ring->data, size - until_end);
}

/*
 * The producer's position is read once: chasing it would make the kernel wake us for every record
 * written meanwhile. The consumer's is stored once, when all that was copied may be overwritten.
 * A record that reaches beyond the producer's position is an error: no kernel writes such a one.
 */
int shim_read(const struct shim_ring *ring, void *buffer, size_t size, size_t *ret)
{
	uint64_t at = __atomic_load_n(ring->consumer, __ATOMIC_RELAXED);
	uint64_t end = __atomic_load_n(ring->producer, __ATOMIC_ACQUIRE);
	char *to = buffer;
	size_t filled = 0;

	*ret = 0;
	while (at < end) {
		const char *record = ring->data + (at & ring->mask);
		uint32_t header = __atomic_load_n((const uint32_t *)record, __ATOMIC_ACQUIRE);
		uint32_t length = header & ~(BUSY_BIT | DISCARD_BIT);
		size_t padded = (length + 7) / 8 * 8;

		if (header & BUSY_BIT)
			break;
		if (HEADER + padded > end - at) {
			if (!filled)
				return -EBADMSG;
			break;
		}
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

int shim_wait(int ring, int wake, int out, int target, int64_t timeout)
{
	int64_t deadline = deadline_in(timeout);
	struct pollfd fds[] = {
		{ .fd = ring, .events = POLLIN },
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
		} else if (!ready && left < INT_MAX) {
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
