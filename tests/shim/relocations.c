// SPDX-License-Identifier: BSD-2-Clause
/* relocations OBJECT chosen|all: print what becomes of each relocation of an object's programs. */
#define _GNU_SOURCE
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <bpf/libbpf.h>
#include "shim.h"
#include "handlers.h"

static int print_relocations(enum libbpf_print_level level, const char *format, va_list args)
{
	char line[4096];

	(void)level;
	vsnprintf(line, sizeof(line), format, args);
	if (strstr(line, "relo #") && strstr(line, "insn #"))
		fputs(line, stdout);
	return 0;
}

int main(int argc, char **argv)
{
	int types = memfd_create("types", 0);
	char path[64];
	LIBBPF_OPTS(bpf_object_open_opts, options, .relaxed_maps = true);
	struct bpf_program *program;
	struct bpf_object *object;

	if (argc != 3 || types < 0)
		return 2;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", types);
	options.btf_custom_path = strcmp(argv[2], "all") ? path : "/sys/kernel/btf/vmlinux";
	libbpf_set_print(print_relocations);
	types_register();
	object = bpf_object__open_file(argv[1], &options);
	if (!object)
		return 1;
	bpf_object__for_each_program(program, object)
		bpf_program__set_autoload(program, true);
	/* Where the kernel lacks a function, it fails after all has been relocated. */
	if (strcmp(argv[2], "all"))
		shim_load(object, types);
	else
		bpf_object__load(object);
	bpf_object__close(object);
	return 0;
}
