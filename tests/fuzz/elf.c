/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The reader of symbols. The fuzzer writes an ELF file, the lines of a JIT compiler or those of
 * kallsyms; every place in them is looked up, every name looked for and read as a name of C++.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>
#include "fuzz_input.h"
#include "shim.h"

enum { FILE_OF_ELF, LINES_OF_JIT, LINES_OF_KERNEL, KINDS };

static int open_file(const struct input *input, shim_elf **ret)
{
	int fd = memfd_create("fuzz", MFD_CLOEXEC), error;

	CLAIM(fd >= 0 && write(fd, input->at, input->left) == (ssize_t)input->left);
	error = shim_elf_open(fd, ret);
	close(fd);
	return error;
}

static void look_up(const shim_elf *elf, uint64_t offset)
{
	char cxx_name[64];
	const char *name;
	uint64_t distance, found;

	if (shim_elf_find(elf, elf, offset, &name, &distance))
		return;
	CLAIM(strlen(name) > 0);
	shim_elf_offset(elf, name, &found);
	if (!shim_demangle(name, cxx_name, sizeof(cxx_name)))
		CLAIM(strlen(cxx_name) < sizeof(cxx_name));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input input = { data, size };
	int kind = take_byte(&input) % KINDS;
	char *lines = malloc(size); /* to the byte; they stay in use until the end */
	shim_elf *elf;
	int error;

	CLAIM(lines);
	memcpy(lines, input.at, input.left);
	if (kind == FILE_OF_ELF)
		error = open_file(&input, &elf);
	else
		error = shim_elf_of_lines(lines, input.left, kind == LINES_OF_KERNEL, &elf);
	CLAIM(!error || (error == -ENOEXEC && kind == FILE_OF_ELF));
	if (!error) {
		CLAIM(elf->build_id_size <= sizeof(elf->build_id));
		CLAIM(memchr(elf->debug_link, 0, sizeof(elf->debug_link)));
		for (size_t offset = 0; offset < size; offset += 8)
			look_up(elf, offset);
		for (int bit = 16; bit < 64; bit++)
			look_up(elf, UINT64_C(1) << bit);
		look_up(elf, UINT64_MAX);
		shim_elf_close(elf);
	}
	free(lines);
	return 0;
}
