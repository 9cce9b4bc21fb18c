/* SPDX-License-Identifier: BSD-2-Clause */
/* What an open object is. */
#ifndef RING_H
#define RING_H
#include "shim.h"

struct ring {
	int fd; /* of the map, owned by libbpf; valid while consumer is set */
	uint64_t mask;
	volatile uint64_t *consumer; /* one page, writable */
	volatile uint64_t *producer; /* one page, then the data, read only */
	const char *data;
	size_t mapped;
};

struct shim {
	struct bpf_object *bpf;
	struct ring ring;
};

void ring_close(struct ring *ring);
#endif
