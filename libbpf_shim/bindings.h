/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The functions and types of libbpf that Python uses. Only cffi reads this file: it has the
 * compiler find what is left out here ("...") and check the rest. Functions fail with NULL and
 * errno, or with a negative errno.
 */
#define BTF_KIND_STRUCT ...
#define BTF_KIND_ENUM ...
#define BTF_KIND_TYPEDEF ...
#define BTF_KIND_FUNC ...
#define BTF_KIND_VAR ...
#define BTF_KIND_DATASEC ...
#define BTF_INT_SIGNED ...
#define BTF_INT_BOOL ...
#define BPF_ANY ...

struct btf_type { uint32_t name_off, size, type; ...; };
struct btf_array { uint32_t type, nelems; ...; };
struct btf_member { uint32_t name_off, type; ...; };
struct btf_var_secinfo { uint32_t type, offset; ...; };
struct btf_enum { uint32_t name_off; int32_t val; };

struct btf *btf__load_vmlinux_btf(void);
struct btf *btf__load_module_btf(const char *module, struct btf *kernel);
int32_t btf__find_by_name_kind(const struct btf *btf, const char *name, uint32_t kind);
const struct btf_type *btf__type_by_id(const struct btf *btf, uint32_t id);
const char *btf__name_by_offset(const struct btf *btf, uint32_t offset);
int64_t btf__resolve_size(const struct btf *btf, uint32_t id);
bool btf_is_mod(const struct btf_type *type);
bool btf_is_typedef(const struct btf_type *type);
bool btf_is_struct(const struct btf_type *type);
bool btf_is_enum(const struct btf_type *type);
bool btf_is_array(const struct btf_type *type);
bool btf_is_int(const struct btf_type *type);
bool btf_is_ptr(const struct btf_type *type);
uint8_t btf_int_encoding(const struct btf_type *type);
uint16_t btf_vlen(const struct btf_type *type);
uint32_t btf_member_bit_offset(const struct btf_type *type, uint32_t index);
struct btf_array *btf_array(const struct btf_type *type);
struct btf_member *btf_members(const struct btf_type *type);
struct btf_enum *btf_enum(const struct btf_type *type);
struct btf_var_secinfo *btf_var_secinfos(const struct btf_type *type);

int libbpf_num_possible_cpus(void);
struct btf *bpf_object__btf(const struct bpf_object *object);
void bpf_object__close(struct bpf_object *object);

struct bpf_map *bpf_object__next_map(const struct bpf_object *object, const struct bpf_map *map);
struct bpf_map *bpf_object__find_map_by_name(const struct bpf_object *object, const char *name);
bool bpf_map__is_internal(const struct bpf_map *map);
const char *bpf_map__name(const struct bpf_map *map);
int bpf_map__type(const struct bpf_map *map);
uint32_t bpf_map__key_size(const struct bpf_map *map);
uint32_t bpf_map__value_size(const struct bpf_map *map);
uint32_t bpf_map__max_entries(const struct bpf_map *map);
int bpf_map__set_max_entries(struct bpf_map *map, uint32_t entries);
const void *bpf_map__initial_value(struct bpf_map *map, size_t *size);
int bpf_map__fd(const struct bpf_map *map);

struct bpf_program *bpf_object__next_program(const struct bpf_object *, struct bpf_program *);
struct bpf_program *bpf_object__find_program_by_name(const struct bpf_object *, const char *name);
const char *bpf_program__name(const struct bpf_program *program);
const char *bpf_program__section_name(const struct bpf_program *program);
bool bpf_program__autoload(const struct bpf_program *program);
int bpf_program__set_autoload(struct bpf_program *program, bool autoload);
int bpf_program__fd(const struct bpf_program *program);

struct bpf_kprobe_multi_opts { size_t sz; const char **syms; size_t cnt; ...; };
struct bpf_link *bpf_program__attach(const struct bpf_program *program);
struct bpf_link *bpf_program__attach_kprobe_multi_opts(const struct bpf_program *, const char *,
						       const struct bpf_kprobe_multi_opts *);
struct bpf_link *bpf_program__attach_uprobe(const struct bpf_program *, bool returns, int pid,
					    const char *path, size_t offset);
struct bpf_link *bpf_program__attach_iter(const struct bpf_program *program, const void *options);
int bpf_link__fd(const struct bpf_link *link);
int bpf_link__destroy(struct bpf_link *link);

struct bpf_prog_info { uint64_t recursion_misses; ...; };
int bpf_obj_get_info_by_fd(int fd, void *info, uint32_t *size);
int bpf_iter_create(int link_fd);
int bpf_map_get_next_key(int fd, const void *key, void *next_key);
int bpf_map_lookup_elem(int fd, const void *key, void *value);
int bpf_map_update_elem(int fd, const void *key, const void *value, uint64_t flags);
int bpf_map_lookup_batch(int fd, void *from, void *to, void *keys, void *values, uint32_t *count,
			 const void *);
int bpf_map_delete_elem(int fd, const void *key);
int bpf_map_delete_batch(int fd, const void *keys, uint32_t *count, const void *options);
