/* SPDX-License-Identifier: BSD-2-Clause */
/* Objects, programs, maps and BTF: libbpf as Python needs it. */
#include <errno.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <linux/magic.h>
#include <linux/membarrier.h>
#include <linux/perf_event.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>
#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include "shim.h"
#include "object.h"

static char log_text[1 << 16];
static size_t log_used;
static struct btf *kernel_btf;

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

int shim_libbpf_version(void)
{
	return libbpf_major_version() * 100 + libbpf_minor_version();
}

int shim_cpus(void)
{
	return libbpf_num_possible_cpus();
}

int shim_open(const void *bytes, size_t size, shim **ret)
{
	/* relaxed_maps: a ring's definition names its record in a member of its own. */
	LIBBPF_OPTS(bpf_object_open_opts, options, .relaxed_maps = true, .object_name = "tracewheel");
	shim *object = calloc(1, sizeof(*object));

	if (!object)
		return -ENOMEM;
#ifdef __GLIBC__
	/* Give the kernel's BTF, 6 MB, back when it is freed; by default glibc would keep it. */
	mallopt(M_MMAP_THRESHOLD, 128 * 1024);
#endif
	libbpf_set_print(log_print);
	object->bpf = bpf_object__open_mem(bytes, size, &options);
	if (!object->bpf) {
		int error = -errno;

		free(object);
		return error;
	}
	*ret = object;
	return 0;
}

void shim_detach(shim *object)
{
	while (object->link_count)
		bpf_link__destroy(object->links[--object->link_count]);
}

void shim_close(shim *object)
{
	if (!object)
		return;
	shim_detach(object);
	ring_close(&object->ring);
	bpf_object__close(object->bpf);
	free(object->links);
	free(object);
}

int shim_program(shim *object, int index, struct shim_program *ret)
{
	struct bpf_program *program = NULL;

	do
		program = bpf_object__next_program(object->bpf, program);
	while (program && index--);
	if (!program)
		return -ENOENT;
	ret->name = bpf_program__name(program);
	ret->section = bpf_program__section_name(program);
	ret->optional = !bpf_program__autoload(program);
	return 0;
}

/* The type under typedefs and qualifiers; *meaning is the outermost name on the way. */
static const struct btf_type *resolve(const struct btf *btf, uint32_t id, const char **meaning)
{
	const struct btf_type *type = btf__type_by_id(btf, id);

	*meaning = "";
	while (type) {
		if (!**meaning && !btf_is_const(type) && !btf_is_volatile(type))
			*meaning = btf__name_by_offset(btf, type->name_off);
		if (!btf_is_mod(type) && !btf_is_typedef(type))
			break;
		type = btf__type_by_id(btf, type->type);
	}
	return type;
}

static int describe(const struct btf *btf, uint32_t id, struct shim_member *ret)
{
	const struct btf_type *type = resolve(btf, id, &ret->meaning);
	const char *element;
	int64_t size = btf__resolve_size(btf, id);

	if (!type || size < 0)
		return -EINVAL;
	ret->size = size;
	ret->count = 0;
	if (btf_is_array(type)) {
		ret->count = btf_array(type)->nelems;
		type = resolve(btf, btf_array(type)->type, &element);
	}
	ret->is_signed = type && btf_is_int(type) && (btf_int_encoding(type) & BTF_INT_SIGNED);
	ret->is_bool = type && btf_is_int(type) && (btf_int_encoding(type) & BTF_INT_BOOL);
	return 0;
}

int shim_member(shim *object, const char *name, int index, struct shim_member *ret)
{
	const struct btf *btf = bpf_object__btf(object->bpf);
	int id = btf__find_by_name_kind(btf, name, BTF_KIND_STRUCT);
	const struct btf_type *type;
	const struct btf_member *member;

	if (id < 0)
		return -ESRCH;
	type = btf__type_by_id(btf, id);
	if (index < 0 || index >= btf_vlen(type))
		return -ENOENT;
	member = btf_members(type) + index;
	ret->name = btf__name_by_offset(btf, member->name_off);
	ret->section = NULL;
	ret->offset = btf_member_bit_offset(type, index) / 8;
	return describe(btf, member->type, ret);
}

int shim_struct_size(shim *object, const char *name, uint32_t *ret)
{
	const struct btf *btf = bpf_object__btf(object->bpf);
	int id = btf__find_by_name_kind(btf, name, BTF_KIND_STRUCT);

	if (id < 0)
		return -ESRCH;
	*ret = btf__type_by_id(btf, id)->size;
	return 0;
}

/* Global variables in the order of their sections. libbpf knows their offsets once it has opened. */
int shim_global(shim *object, int index, struct shim_member *ret)
{
	const struct btf *btf = bpf_object__btf(object->bpf);
	uint32_t count = btf__type_cnt(btf);

	for (uint32_t id = 1; id < count; id++) {
		const struct btf_type *type = btf__type_by_id(btf, id);
		const char *section;

		if (!btf_is_datasec(type))
			continue;
		section = btf__name_by_offset(btf, type->name_off);
		if (strcmp(section, ".rodata") && strcmp(section, ".bss") && strcmp(section, ".data"))
			continue;
		if (index >= btf_vlen(type)) {
			index -= btf_vlen(type);
			continue;
		}
		const struct btf_var_secinfo *variable = btf_var_secinfos(type) + index;
		const struct btf_type *what = btf__type_by_id(btf, variable->type);

		ret->name = btf__name_by_offset(btf, what->name_off);
		ret->section = section;
		ret->offset = variable->offset;
		return describe(btf, what->type, ret);
	}
	return -ENOENT;
}

static int find_global(shim *object, const char *name, struct shim_member *ret)
{
	for (int i = 0; !shim_global(object, i, ret); i++)
		if (!strcmp(ret->name, name))
			return 0;
	return -ENOENT;
}

/* The map behind a section is named OBJECT.rodata: libbpf finds it by the section's name. */
static struct bpf_map *section_map(shim *object, const char *section)
{
	return bpf_object__find_map_by_name(object->bpf, section);
}

int shim_set_global(shim *object, const char *name, const void *value, size_t size)
{
	struct shim_member global;
	struct bpf_map *map;
	void *memory;
	size_t memory_size;

	if (find_global(object, name, &global))
		return -ENOENT;
	map = section_map(object, global.section);
	memory = map ? (void *)bpf_map__initial_value(map, &memory_size) : NULL;
	if (!memory || size != global.size || global.offset + size > memory_size)
		return -EINVAL;
	memcpy((char *)memory + global.offset, value, size);
	return 0;
}

/* By look-up: outside skeletons libbpf maps .bss live only from 1.5 on. */
int shim_get_global(shim *object, const char *name, uint64_t *ret)
{
	struct shim_member global;
	struct bpf_map *map;
	uint32_t zero = 0;
	char *value;
	int error;

	if (find_global(object, name, &global))
		return -ENOENT;
	map = section_map(object, global.section);
	if (!map || global.size > sizeof(*ret))
		return -EINVAL;
	value = malloc(bpf_map__value_size(map));
	if (!value)
		return -ENOMEM;
	error = bpf_map_lookup_elem(bpf_map__fd(map), &zero, value);
	*ret = 0;
	if (!error)
		memcpy(ret, value + global.offset, global.size);
	free(value);
	return error;
}

/* The struct that a map's definition gives its member KIND ("record", "key", "value"). */
static const char *definition_type(const struct btf *btf, const char *map, const char *kind)
{
	int id = btf__find_by_name_kind(btf, map, BTF_KIND_VAR);
	const char *meaning;
	const struct btf_type *definition;

	if (id < 0)
		return NULL;
	definition = resolve(btf, btf__type_by_id(btf, id)->type, &meaning);
	for (int i = 0; i < btf_vlen(definition); i++) {
		const struct btf_member *member = btf_members(definition) + i;
		const struct btf_type *pointer;

		if (strcmp(btf__name_by_offset(btf, member->name_off), kind))
			continue;
		pointer = btf__type_by_id(btf, member->type);
		if (!btf_is_ptr(pointer))
			return NULL;
		return btf_is_struct(resolve(btf, pointer->type, &meaning)) ? meaning : NULL;
	}
	return NULL;
}

int shim_map(shim *object, int index, struct shim_map *ret)
{
	const struct btf *btf = bpf_object__btf(object->bpf);
	struct bpf_map *map = NULL;

	do
		map = bpf_object__next_map(object->bpf, map);
	while (map && (bpf_map__is_internal(map) || index--));
	if (!map)
		return -ENOENT;
	ret->name = bpf_map__name(map);
	ret->record = definition_type(btf, ret->name, "record");
	ret->key = definition_type(btf, ret->name, "key");
	ret->value = definition_type(btf, ret->name, "value");
	ret->type = bpf_map__type(map);
	ret->key_size = bpf_map__key_size(map);
	ret->value_size = bpf_map__value_size(map);
	ret->max_entries = bpf_map__max_entries(map);
	return 0;
}

int shim_set_max_entries(shim *object, const char *name, uint32_t entries)
{
	struct bpf_map *map = bpf_object__find_map_by_name(object->bpf, name);

	return map ? bpf_map__set_max_entries(map, entries) : -ENOENT;
}

int shim_set_autoload(shim *object, const char *name, int autoload)
{
	struct bpf_program *program = bpf_object__find_program_by_name(object->bpf, name);

	return program ? bpf_program__set_autoload(program, autoload) : -ENOENT;
}

int shim_load(shim *object)
{
	return bpf_object__load(object->bpf);
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

/* To the one function of a section such as kprobe.multi/vfs_read: libbpf would read kallsyms. */
static struct bpf_link *attach(struct bpf_program *program)
{
	const char *section = bpf_program__section_name(program), *multi = "kprobe.multi/";
	const char *function = section + strlen(multi);
	LIBBPF_OPTS(bpf_kprobe_multi_opts, options, .syms = &function, .cnt = 1);

	if (!strncmp(section, multi, strlen(multi)) && !strpbrk(function, "*?"))
		return bpf_program__attach_kprobe_multi_opts(program, NULL, &options);
	return bpf_program__attach(program);
}

/* LINK may be NULL, with errno set: what bpf_program__attach*() returned. */
static int keep_link(shim *object, struct bpf_link *link)
{
	struct bpf_link **links;

	if (!link)
		return -errno;
	links = realloc(object->links, (object->link_count + 1) * sizeof(link));
	if (!links) {
		bpf_link__destroy(link);
		return -ENOMEM;
	}
	links[object->link_count++] = link;
	object->links = links;
	return 0;
}

int shim_attach(shim *object, const char *name)
{
	struct bpf_program *program = bpf_object__find_program_by_name(object->bpf, name);

	return program ? keep_link(object, attach(program)) : -ENOENT;
}

int shim_attach_uprobe(shim *object, const char *name, int fd, uint64_t offset)
{
	struct bpf_program *program = bpf_object__find_program_by_name(object->bpf, name);
	char path[32];
	bool returns;

	if (!program)
		return -ENOENT;
	returns = !strncmp(bpf_program__section_name(program), "uret", 4);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return keep_link(object, bpf_program__attach_uprobe(program, returns, -1, path, offset));
}

int shim_attach_clock(shim *object, const char *name, int cpu, uint32_t frequency)
{
	struct bpf_program *program = bpf_object__find_program_by_name(object->bpf, name);
	struct perf_event_attr clock = { .type = PERF_TYPE_SOFTWARE, .config = PERF_COUNT_SW_CPU_CLOCK,
					 .size = sizeof(clock), .disabled = 1, .freq = 1,
					 .sample_freq = frequency };
	struct bpf_link *link;
	int fd, error;

	if (!program)
		return -ENOENT;
	fd = syscall(SYS_perf_event_open, &clock, -1, cpu, -1, PERF_FLAG_FD_CLOEXEC);
	if (fd < 0)
		return -errno;
	link = bpf_program__attach_perf_event(program, fd);
	if (link) /* which has the descriptor now, and has started the clock */
		return keep_link(object, link);
	error = -errno;
	close(fd);
	return error;
}

int shim_is_overlay(int fd)
{
	struct statfs system;

	return !fstatfs(fd, &system) && system.f_type == OVERLAYFS_SUPER_MAGIC;
}

/* Linux commit 9ed9e9ba2337 ("bpf: Count the number of times recursion was prevented") (in v5.12). */
int shim_missed(shim *object, const char *name, uint64_t *ret)
{
	struct bpf_program *program = bpf_object__find_program_by_name(object->bpf, name);
	struct bpf_prog_info info = {};
	uint32_t size = sizeof(info);
	int error;

	*ret = 0;
	if (!program)
		return -ENOENT;
	error = bpf_obj_get_info_by_fd(bpf_program__fd(program), &info, &size);
	if (!error)
		*ret = info.recursion_misses;
	return error;
}

static int load_kernel_btf(void)
{
	if (!kernel_btf)
		kernel_btf = btf__load_vmlinux_btf();
	return kernel_btf ? 0 : -errno;
}

int shim_tracepoint_args(const char *tracepoint, int *ret)
{
	char name[128];
	const struct btf_type *type;
	const char *meaning;
	int id, error = load_kernel_btf();

	if (error)
		return error;
	snprintf(name, sizeof(name), "btf_trace_%s", tracepoint);
	id = btf__find_by_name_kind(kernel_btf, name, BTF_KIND_TYPEDEF);
	if (id < 0)
		return -ENOENT;
	type = resolve(kernel_btf, id, &meaning);
	if (type && btf_is_ptr(type))
		type = resolve(kernel_btf, type->type, &meaning);
	if (!type || !btf_is_func_proto(type))
		return -EINVAL;
	*ret = btf_vlen(type) - 1; /* the first is the tracepoint's own data */
	return 0;
}

int shim_enumerator(const char *type_name, int index, const char **name, int64_t *ret)
{
	const struct btf_type *type;
	int id, error = load_kernel_btf();

	if (error)
		return error;
	id = btf__find_by_name_kind(kernel_btf, type_name, BTF_KIND_ENUM);
	if (id < 0)
		return -ESRCH;
	type = btf__type_by_id(kernel_btf, id);
	if (index < 0 || index >= btf_vlen(type))
		return -ENOENT;
	*name = btf__name_by_offset(kernel_btf, btf_enum(type)[index].name_off);
	*ret = btf_enum(type)[index].val;
	return 0;
}

void shim_sum(void *values, uint32_t count, uint32_t value_size)
{
	uint32_t words = value_size / 8, cpus = libbpf_num_possible_cpus();
	uint64_t *to = values;
	const uint64_t *from = values;

	for (; count--; to += words, from += words * cpus) {
		memmove(to, from, value_size);
		for (uint32_t word = words; word < words * cpus; word++)
			to[word % words] += from[word];
	}
}

int shim_map_delete(shim *object, const char *name, const void *keys, uint32_t count)
{
	struct bpf_map *map = bpf_object__find_map_by_name(object->bpf, name);

	return map ? bpf_map_delete_batch(bpf_map__fd(map), keys, &count, NULL) : -ENOENT;
}

/* Programs run in RCU's read sections, and this waits for them on all CPUs. */
void shim_settle(void)
{
	syscall(SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0);
}

int shim_has_function(const char *name, int *ret)
{
	int error = load_kernel_btf();

	*ret = !error && btf__find_by_name_kind(kernel_btf, name, BTF_KIND_FUNC) > 0;
	return error;
}

int shim_map_write(shim *object, const char *name, const void *key, const void *value)
{
	struct bpf_map *map = bpf_object__find_map_by_name(object->bpf, name);

	return map ? bpf_map_update_elem(bpf_map__fd(map), key, value, BPF_ANY) : -ENOENT;
}

/* One by one, for maps and kernels without batches. */
static int read_singly(int fd, int first, void *cursor, char *keys, char *values, uint32_t *ret,
		       uint32_t key_size, uint32_t value_size)
{
	uint32_t most = *ret, filled = 0;
	int error = 0;

	while (filled < most) {
		error = bpf_map_get_next_key(fd, first ? NULL : cursor, cursor);
		if (error)
			break;
		first = 0;
		if (bpf_map_lookup_elem(fd, cursor, values + (size_t)filled * value_size))
			continue; /* deleted meanwhile */
		memcpy(keys + (size_t)filled++ * key_size, cursor, key_size);
	}
	*ret = filled;
	return error;
}

/*
 * Batches: for hash maps since v5.6, for per-CPU arrays since Linux commit f008d732ab18 ("bpf: Add
 * batched ops support for percpu array") (in v5.13).
 */
int shim_map_read(shim *object, const char *name, int first, void *cursor, void *keys, void *values,
		  uint32_t *ret)
{
	struct bpf_map *map = bpf_object__find_map_by_name(object->bpf, name);
	uint32_t key_size, value_size, most = *ret;
	int fd, error;

	if (!map)
		return -EBADF;
	fd = bpf_map__fd(map);
	key_size = bpf_map__key_size(map);
	value_size = bpf_map__value_size(map);
	if (bpf_map__type(map) == BPF_MAP_TYPE_PERCPU_ARRAY ||
	    bpf_map__type(map) == BPF_MAP_TYPE_PERCPU_HASH)
		value_size = (value_size + 7) / 8 * 8 * libbpf_num_possible_cpus();
	if (first || !object->reads_singly) {
		error = bpf_map_lookup_batch(fd, first ? NULL : cursor, cursor, keys, values, ret, NULL);
		object->reads_singly = error && error != -ENOENT;
		if (!object->reads_singly)
			return error;
		*ret = most;
	}
	return read_singly(fd, first, cursor, keys, values, ret, key_size, value_size);
}

int shim_iterate(shim *object, const char *name, void *buffer, size_t size, size_t *ret)
{
	struct bpf_program *program = bpf_object__find_program_by_name(object->bpf, name);
	struct bpf_link *link = program ? bpf_program__attach_iter(program, NULL) : NULL;
	ssize_t got = -1;
	int fd, error;

	*ret = 0;
	if (!link)
		return program ? -errno : -ENOENT;
	fd = bpf_iter_create(bpf_link__fd(link));
	while (fd >= 0 && *ret < size) {
		got = read(fd, (char *)buffer + *ret, size - *ret);
		if (got > 0)
			*ret += got;
		else if (!got || (errno != EINTR && errno != EAGAIN))
			break;
	}
	error = got < 0 ? -errno : got ? -ENOSPC : 0;
	if (fd >= 0)
		close(fd);
	bpf_link__destroy(link);
	return error;
}
