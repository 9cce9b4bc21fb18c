/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The kernel's types. It has some 126,000, and an object names a few hundred of them. libbpf reads
 * all of them into memory, twice, and compares each name of the object with all of theirs. This
 * looks at each of them once, and gives libbpf a file of those that the object can ask for.
 *
 * A pointer of that file points to nothing: a relocation never follows one, because what is behind
 * it is the business of a relocation of its own. (Comparing the targets of pointers takes
 * bpf_core_type_exists() or bpf_core_type_matches(), and bpf_core_type_id_kernel() would number the
 * types of the file. No program uses these.)
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include "shim.h"
#include "handlers.h"

#define TARGETS_MOST 32
#define WANTED_SLOTS 4096 /* a power of two */

/* A function or tracepoint that a program is attached to, and its type's number; 0: not found. */
struct target {
	const struct bpf_program *program;
	char name[128];
	uint32_t kind, id;
};

/* What the kernel tells in /sys/kernel/btf/vmlinux. */
struct kernel_types {
	const char *bytes;
	size_t size;
	bool mapped;
	const char *types, *names;
	uint32_t types_size, names_size;
};

/* Names, less their flavours: those that the object's types have. */
struct wanted {
	struct {
		const char *name;
		size_t length;
	} slots[WANTED_SLOTS];
	uint32_t count;
};

/* The types of the file, which are numbered in the order in which they were chosen. */
struct chosen {
	uint32_t *offsets; /* of each of the kernel's types, by its number */
	uint32_t *numbers; /* in the file, by the number in the kernel; 0: not chosen */
	uint32_t count;    /* of the kernel's types, with that of void */
	uint32_t *queue;   /* numbers in the kernel */
	uint32_t queued;
	FILE *types, *names;
};

/* What shim_load has found for the programs that this thread loads. */
static _Thread_local const struct target *loading;
static _Thread_local size_t loading_count;

static int read_whole(int fd, size_t size, struct kernel_types *ret)
{
	char *bytes = malloc(size);
	size_t at = 0;
	ssize_t got = 0;

	/* The kernel gives 4 KB at a time. */
	while (bytes && at < size && (got = read(fd, bytes + at, size - at)) > 0)
		at += got;
	if (!bytes || at < size) {
		free(bytes);
		return !bytes ? -ENOMEM : got < 0 ? -errno : -EIO;
	}
	ret->bytes = bytes;
	return 0;
}

static int open_kernel_types(struct kernel_types *ret)
{
	int fd = open("/sys/kernel/btf/vmlinux", O_RDONLY | O_CLOEXEC), error = 0;
	struct stat status;

	*ret = (struct kernel_types){};
	if (fd < 0)
		return -errno;
	if (fstat(fd, &status)) {
		error = -errno;
	} else {
		/* Linux commit a539e2a6d51d ("btf: Allow mmap of vmlinux btf") (in v6.16) */
		void *bytes = mmap(NULL, status.st_size, PROT_READ, MAP_PRIVATE, fd, 0);

		ret->size = status.st_size;
		ret->mapped = bytes != MAP_FAILED;
		ret->bytes = ret->mapped ? bytes : NULL;
		if (!ret->mapped)
			error = read_whole(fd, ret->size, ret);
	}
	close(fd);
	return error;
}

static void close_kernel_types(struct kernel_types *kernel)
{
	if (kernel->mapped)
		munmap((void *)kernel->bytes, kernel->size);
	else
		free((void *)kernel->bytes);
}

static int find_sections(struct kernel_types *kernel)
{
	const struct btf_header *header = (const void *)kernel->bytes;
	uint64_t types, names;

	if (kernel->size < sizeof(*header) || header->magic != BTF_MAGIC ||
	    header->version != BTF_VERSION)
		return -EINVAL;
	types = (uint64_t)header->hdr_len + header->type_off;
	names = (uint64_t)header->hdr_len + header->str_off;
	if (types % 4 || types + header->type_len > kernel->size || !header->str_len ||
	    names + header->str_len > kernel->size ||
	    kernel->bytes[names + header->str_len - 1])
		return -EINVAL;
	kernel->types = kernel->bytes + types;
	kernel->types_size = header->type_len;
	kernel->names = kernel->bytes + names;
	kernel->names_size = header->str_len;
	return 0;
}

static const char *name_at(const struct kernel_types *kernel, uint32_t offset)
{
	return kernel->names + (offset < kernel->names_size ? offset : 0);
}

/* Size of a type's description; 0: it is of a kind that did not exist yet. */
static size_t size_of(const struct btf_type *type)
{
	const size_t count = btf_vlen(type);

	switch (btf_kind(type)) {
	case BTF_KIND_PTR:
	case BTF_KIND_FWD:
	case BTF_KIND_TYPEDEF:
	case BTF_KIND_VOLATILE:
	case BTF_KIND_CONST:
	case BTF_KIND_RESTRICT:
	case BTF_KIND_FUNC:
	case BTF_KIND_FLOAT:
	case BTF_KIND_TYPE_TAG:
		return sizeof(*type);
	case BTF_KIND_INT:
	case BTF_KIND_VAR:
	case BTF_KIND_DECL_TAG:
		return sizeof(*type) + 4;
	case BTF_KIND_ARRAY:
		return sizeof(*type) + sizeof(struct btf_array);
	case BTF_KIND_STRUCT:
	case BTF_KIND_UNION:
		return sizeof(*type) + count * sizeof(struct btf_member);
	case BTF_KIND_ENUM:
		return sizeof(*type) + count * sizeof(struct btf_enum);
	case BTF_KIND_ENUM64:
		return sizeof(*type) + count * sizeof(struct btf_enum64);
	case BTF_KIND_FUNC_PROTO:
		return sizeof(*type) + count * sizeof(struct btf_param);
	case BTF_KIND_DATASEC:
		return sizeof(*type) + count * sizeof(struct btf_var_secinfo);
	default:
		return 0;
	}
}

/* Whether relocations may look for a type of this kind by its name. */
static bool is_relocated(const struct btf_type *type)
{
	switch (btf_kind(type)) {
	case BTF_KIND_INT:
	case BTF_KIND_FLOAT:
	case BTF_KIND_STRUCT:
	case BTF_KIND_UNION:
	case BTF_KIND_ENUM:
	case BTF_KIND_ENUM64:
	case BTF_KIND_TYPEDEF:
	case BTF_KIND_FWD:
		return type->name_off;
	default:
		return false;
	}
}

/* Length of a name without its flavour: task_struct___old is task_struct, as libbpf has it. */
static size_t essential_length(const char *name)
{
	const size_t length = strlen(name);

	for (size_t at = length; at-- > 4;) {
		const char *five = name + at - 4;

		if (five[0] != '_' && !strncmp(five + 1, "___", 3) && five[4] != '_')
			return five + 1 - name;
	}
	return length;
}

/* The slot of a name, or the empty one where it belongs. */
static uint32_t slot_of(const struct wanted *wanted, const char *name, size_t length)
{
	uint32_t at = 2166136261;

	for (size_t i = 0; i < length; i++)
		at = (at ^ (unsigned char)name[i]) * 16777619;
	for (at %= WANTED_SLOTS; wanted->slots[at].name; at = (at + 1) % WANTED_SLOTS)
		if (wanted->slots[at].length == length &&
		    !memcmp(wanted->slots[at].name, name, length))
			break;
	return at;
}

static bool is_wanted(const struct wanted *wanted, const char *name)
{
	return wanted->slots[slot_of(wanted, name, essential_length(name))].name;
}

static int find_wanted(const struct bpf_object *object, struct wanted *ret)
{
	const struct btf *btf = bpf_object__btf(object);

	for (uint32_t id = 1; id < btf__type_cnt(btf); id++) {
		const struct btf_type *type = btf__type_by_id(btf, id);

		if (!is_relocated(type))
			continue;

		const char *name = btf__name_by_offset(btf, type->name_off);
		const size_t length = essential_length(name);
		const uint32_t at = slot_of(ret, name, length);

		if (ret->slots[at].name)
			continue;
		if (++ret->count > WANTED_SLOTS / 2)
			return -E2BIG;
		ret->slots[at].name = name;
		ret->slots[at].length = length;
	}
	return 0;
}

/* Returns the number in the file of a type of the kernel, which is chosen by that. */
static uint32_t choose(struct chosen *chosen, uint32_t id)
{
	if (!id || id >= chosen->count)
		return 0;
	if (!chosen->numbers[id]) {
		chosen->queue[chosen->queued++] = id;
		chosen->numbers[id] = chosen->queued;
	}
	return chosen->numbers[id];
}

/* Look at each of the kernel's types: choose those that are wanted, number the targets. */
static int search(const struct kernel_types *kernel, const struct wanted *wanted,
		  struct target *targets, size_t target_count, struct chosen *chosen)
{
	uint32_t id = 1, at = 0;

	for (size_t size; at < kernel->types_size; at += size, id++) {
		const struct btf_type *type = (const void *)(kernel->types + at);
		const uint32_t kind = btf_kind(type);
		const char *name = name_at(kernel, type->name_off);

		size = kernel->types_size - at < sizeof(*type) ? 0 : size_of(type);
		if (!size || size > kernel->types_size - at)
			return -EOPNOTSUPP;
		chosen->offsets[id] = at;
		chosen->count = id + 1;
		for (size_t i = 0; i < target_count; i++)
			if (kind == targets[i].kind && !targets[i].id &&
			    !strcmp(name, targets[i].name))
				targets[i].id = id;
		if (is_relocated(type) && is_wanted(wanted, name))
			choose(chosen, id);
	}
	return 0;
}

/* Returns where in the file a name is. */
static uint32_t add_name(const struct kernel_types *kernel, struct chosen *chosen, uint32_t offset)
{
	const char *name = name_at(kernel, offset);
	const long at = ftell(chosen->names);

	if (!*name)
		return 0;
	fwrite(name, strlen(name) + 1, 1, chosen->names);
	return at;
}

/* Put a type into the file, and choose those that its values consist of. */
static void add_type(const struct kernel_types *kernel, struct chosen *chosen, uint32_t id)
{
	const struct btf_type *from = (const void *)(kernel->types + chosen->offsets[id]);
	const uint32_t count = btf_vlen(from);
	struct btf_type type = *from;

	type.name_off = add_name(kernel, chosen, from->name_off);
	switch (btf_kind(from)) {
	case BTF_KIND_PTR:
		type.type = 0;
		break;
	case BTF_KIND_FUNC_PROTO: /* no value has one */
		type.type = 0;
		type.info = BTF_KIND_FUNC_PROTO << 24;
		fwrite(&type, sizeof(type), 1, chosen->types);
		return;
	case BTF_KIND_TYPEDEF:
	case BTF_KIND_VOLATILE:
	case BTF_KIND_CONST:
	case BTF_KIND_RESTRICT:
	case BTF_KIND_TYPE_TAG:
		type.type = choose(chosen, from->type);
		break;
	}
	fwrite(&type, sizeof(type), 1, chosen->types);
	switch (btf_kind(from)) {
	case BTF_KIND_ARRAY: {
		struct btf_array array = *btf_array(from);

		array.type = choose(chosen, array.type);
		array.index_type = choose(chosen, array.index_type);
		fwrite(&array, sizeof(array), 1, chosen->types);
		break;
	}
	case BTF_KIND_STRUCT:
	case BTF_KIND_UNION:
		for (uint32_t i = 0; i < count; i++) {
			struct btf_member member = btf_members(from)[i];

			member.name_off = add_name(kernel, chosen, member.name_off);
			member.type = choose(chosen, member.type);
			fwrite(&member, sizeof(member), 1, chosen->types);
		}
		break;
	case BTF_KIND_ENUM:
		for (uint32_t i = 0; i < count; i++) {
			struct btf_enum value = btf_enum(from)[i];

			value.name_off = add_name(kernel, chosen, value.name_off);
			fwrite(&value, sizeof(value), 1, chosen->types);
		}
		break;
	case BTF_KIND_ENUM64:
		for (uint32_t i = 0; i < count; i++) {
			struct btf_enum64 value = btf_enum64(from)[i];

			value.name_off = add_name(kernel, chosen, value.name_off);
			fwrite(&value, sizeof(value), 1, chosen->types);
		}
		break;
	default:
		fwrite(from + 1, size_of(from) - sizeof(*from), 1, chosen->types);
	}
}

static int write_whole(int fd, const void *bytes, size_t size)
{
	const char *at = bytes;

	while (size) {
		ssize_t wrote = write(fd, at, size);

		if (wrote < 0)
			return -errno;
		at += wrote;
		size -= wrote;
	}
	return 0;
}

static int write_file(int fd, const char *types, size_t types_size, const char *names,
		      size_t names_size)
{
	const struct btf_header header = {
		.magic = BTF_MAGIC, .version = BTF_VERSION, .hdr_len = sizeof(header),
		.type_len = types_size, .str_off = types_size, .str_len = names_size,
	};
	int error = write_whole(fd, &header, sizeof(header));

	if (!error)
		error = write_whole(fd, types, types_size);
	return error ? error : write_whole(fd, names, names_size);
}

/* Write those of the kernel's types to FD that the object can ask for; number the targets. */
static int write_chosen(const struct kernel_types *kernel, const struct bpf_object *object, int fd,
			struct target *targets, size_t target_count)
{
	/* A type has 12 bytes at least, and the first is void. */
	const size_t most = kernel->types_size / sizeof(struct btf_type) + 1;
	struct wanted *wanted = calloc(1, sizeof(*wanted));
	struct chosen chosen = {
		.offsets = malloc(most * sizeof(uint32_t)),
		.numbers = calloc(most, sizeof(uint32_t)),
		.queue = malloc(most * sizeof(uint32_t)),
	};
	char *types = NULL, *names = NULL;
	size_t types_size = 0, names_size = 0;
	int error = -ENOMEM;

	chosen.types = open_memstream(&types, &types_size);
	chosen.names = open_memstream(&names, &names_size);
	if (wanted && chosen.offsets && chosen.numbers && chosen.queue && chosen.types &&
	    chosen.names) {
		error = find_wanted(object, wanted);
		if (!error)
			error = search(kernel, wanted, targets, target_count, &chosen);
		fputc('\0', chosen.names);
		for (uint32_t i = 0; !error && i < chosen.queued; i++)
			add_type(kernel, &chosen, chosen.queue[i]);
	}
	if (chosen.types && fclose(chosen.types))
		error = -ENOMEM;
	if (chosen.names && fclose(chosen.names))
		error = -ENOMEM;
	if (!error)
		error = write_file(fd, types, types_size, names, names_size);
	free(types);
	free(names);
	free(chosen.offsets);
	free(chosen.numbers);
	free(chosen.queue);
	free(wanted);
	return error;
}

/* The functions and tracepoints of the programs that are to be loaded. */
static size_t find_targets(struct bpf_object *object, struct target *targets)
{
	struct bpf_program *program = NULL;
	size_t count = 0;

	while ((program = bpf_object__next_program(object, program))) {
		const char *name = strchr(bpf_program__section_name(program), '/');
		const bool is_tracepoint =
			bpf_program__expected_attach_type(program) == BPF_TRACE_RAW_TP;

		if (!bpf_program__autoload(program) || !name || count == TARGETS_MOST ||
		    bpf_program__type(program) != BPF_PROG_TYPE_TRACING ||
		    bpf_program__expected_attach_type(program) == BPF_TRACE_ITER)
			continue;
		targets[count] = (struct target){
			.program = program, .kind = is_tracepoint ? BTF_KIND_TYPEDEF : BTF_KIND_FUNC,
		};
		snprintf(targets[count].name, sizeof(targets[count].name), "%s%s",
			 is_tracepoint ? "btf_trace_" : "", name + 1);
		count++;
	}
	return count;
}

/* For libbpf, which asks this immediately before it loads a program: what it is attached to. */
static int tell_target(struct bpf_program *program, struct bpf_prog_load_opts *options, long cookie)
{
	const char *name = strchr(bpf_program__section_name(program), '/');
	int id = 0;

	(void)cookie;
	for (size_t i = 0; i < loading_count; i++)
		if (loading[i].program == program)
			id = loading[i].id;
	if (!id && name)
		id = libbpf_find_vmlinux_btf_id(name + 1,
						bpf_program__expected_attach_type(program));
	if (id <= 0)
		return -ESRCH;
	options->attach_prog_fd = 0; /* that of shim_load */
	options->attach_btf_id = id;
	return 0;
}

static int attach_to_target(const struct bpf_program *program, long cookie, struct bpf_link **link)
{
	(void)cookie;
	*link = bpf_program__attach_trace(program);
	return libbpf_get_error(*link);
}

void types_register(void)
{
	LIBBPF_OPTS(libbpf_prog_handler_opts, options, .prog_prepare_load_fn = tell_target,
		    .prog_attach_fn = attach_to_target);

	libbpf_register_prog_handler("tp_btf/", BPF_PROG_TYPE_TRACING, BPF_TRACE_RAW_TP, &options);
	libbpf_register_prog_handler("fentry/", BPF_PROG_TYPE_TRACING, BPF_TRACE_FENTRY, &options);
	libbpf_register_prog_handler("fexit/", BPF_PROG_TYPE_TRACING, BPF_TRACE_FEXIT, &options);
}

int shim_load(struct bpf_object *object, int types)
{
	struct target targets[TARGETS_MOST];
	size_t count = find_targets(object, targets);
	struct kernel_types kernel;
	int error = open_kernel_types(&kernel);

	if (error)
		return error;
	error = find_sections(&kernel);
	if (!error)
		error = write_chosen(&kernel, object, types, targets, count);
	if (error) {
		/* Whatever is odd about them, libbpf shall judge. */
		count = 0;
		if (ftruncate(types, 0) || lseek(types, 0, SEEK_SET))
			error = -errno;
		else
			error = write_whole(types, kernel.bytes, kernel.size);
	}
	close_kernel_types(&kernel);
	if (error)
		return error;
	/* A program that is attached to another, by whose descriptor it is told, needs no types. */
	for (size_t i = 0; i < count; i++)
		if (targets[i].id)
			bpf_program__set_attach_target((void *)targets[i].program, types, NULL);
	loading = targets;
	loading_count = count;
	error = bpf_object__load(object);
	loading = NULL;
	loading_count = 0;
	return error;
}
