/* SPDX-License-Identifier: BSD-2-Clause */
/* What all fuzz targets share: taking values from the front of the fuzzer's bytes. */
#ifndef FUZZ_INPUT_H
#define FUZZ_INPUT_H
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct input {
	const uint8_t *at;
	size_t left;
};

/* Copy as many bytes as there are; the others stay as they were. */
static inline void take(struct input *input, void *to, size_t size)
{
	size_t taken = size < input->left ? size : input->left;

	if (taken)
		memcpy(to, input->at, taken);
	input->at += taken;
	input->left -= taken;
}

static inline uint8_t take_byte(struct input *input)
{
	uint8_t byte = 0;

	take(input, &byte, 1);
	return byte;
}

static inline uint16_t take_short(struct input *input)
{
	uint16_t number = 0;

	take(input, &number, sizeof(number));
	return number;
}

/* The fuzzer reports an abort as a fault, with the input that led to it. */
#define CLAIM(claim)                                                                \
	do {                                                                        \
		if (!(claim)) {                                                     \
			fprintf(stderr, "%s:%d: not true: %s\n", __FILE__, __LINE__, #claim); \
			abort();                                                    \
		}                                                                   \
	} while (0)

#endif
