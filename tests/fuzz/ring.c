/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The ring reader. The fuzzer chooses records, where in the ring they begin and how large the
 * reader's buffer is; then all that was submitted comes out, in order and once. With noise in the
 * ring, which no kernel writes, the reader stays within the ring and within its buffer.
 */
#include <errno.h>
#include <stdbool.h>
#include "fuzz_input.h"
#include "shim.h"

#define RING 4096
#define BUSY (1u << 31)
#define DISCARDED (1u << 30)

/* Mapped to the byte, so that the sanitizer sees each access beyond the end. */
static char *new_bytes(size_t size)
{
	char *bytes = malloc(size);

	CLAIM(bytes);
	return bytes;
}

static void write_at(char *data, uint64_t at, const void *bytes, size_t size)
{
	for (size_t i = 0; i < size; i++)
		data[(at + i) % RING] = ((const char *)bytes)[i];
}

/* Write records as the kernel does, and what is to be read of them to EXPECTED; return the end. */
static uint64_t write_records(struct input *input, char *data, uint64_t at, char *expected,
			      size_t *expected_size)
{
	const uint64_t begin = at;
	bool readable = true;

	while (input->left) {
		uint8_t state = take_byte(input);
		uint32_t length = take_short(input) % 1024;
		size_t padded = (length + 7) / 8 * 8;
		uint64_t header = length | (state % 8 == 1 ? DISCARDED : 0) | (state % 8 == 2 ? BUSY : 0);
		char record[1024] = {};

		if (at + 8 + padded - begin > RING)
			break;
		take(input, record, length);
		write_at(data, at, &header, 8);
		write_at(data, at + 8, record, padded);
		at += 8 + padded;
		readable = readable && !(header & BUSY);
		if (!readable || header & DISCARDED)
			continue;
		header = length;
		memcpy(expected + *expected_size, &header, 8);
		memcpy(expected + *expected_size + 8, record, padded);
		*expected_size += 8 + padded;
	}
	return at;
}

static void read_records(struct input *input)
{
	static char expected[RING];
	size_t expected_size = 0, got = 0, used;
	uint64_t consumer = (uint64_t)take_short(input) * 8, producer;
	size_t room = 8 + take_byte(input) * 8;
	char *data = new_bytes(RING), *buffer = new_bytes(room);
	const struct shim_ring ring = { &consumer, &producer, data, RING - 1 };
	int error;

	producer = write_records(input, data, consumer, expected, &expected_size);
	for (;;) {
		uint64_t before = consumer;

		error = shim_read(&ring, buffer, room, &used);
		CLAIM(used <= room && consumer <= producer && consumer >= before);
		CLAIM(used <= expected_size - got && !memcmp(expected + got, buffer, used));
		got += used;
		if (error || !used)
			break;
	}
	CLAIM(!error || error == -EMSGSIZE);
	CLAIM(error || got == expected_size);
	free(data);
	free(buffer);
}

static void read_noise(struct input *input)
{
	uint64_t consumer = (uint64_t)take_short(input) * 8;
	uint64_t producer = consumer + take_short(input) % (RING / 8 + 1) * 8;
	size_t room = take_short(input), used;
	char *data = new_bytes(RING), *buffer = new_bytes(room);
	const struct shim_ring ring = { &consumer, &producer, data, RING - 1 };

	memset(data, 0, RING);
	take(input, data, RING);
	shim_read(&ring, buffer, room, &used);
	CLAIM(used <= room);
	free(data);
	free(buffer);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input input = { data, size };

	if (take_byte(&input) % 2)
		read_noise(&input);
	else
		read_records(&input);
	return 0;
}
