/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Names of functions in processes: from ELF files, and from the lines that JIT compilers write for
 * perf. Both are other people's: what is wrong in them costs names and nothing else, and how much
 * is read of them has bounds. Nothing is mapped: a file that shrinks meanwhile would kill us.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <gelf.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include "shim.h"

#define MOST_SEGMENTS 16
#define MOST_SECTIONS 4096
#define MOST_SECTION (128u << 20) /* bytes read at once; the largest programs have half of it */
#define MOST_NAMES (128u << 20)
#define MOST_NAME 1024
#define MOST_NESTED 16  /* symbols between a function's own and an address in it */
#define FAR (1u << 20)	/* a symbol without a size ends there, if none follows */
#define MOST_GROWTH 24

struct segment {
	uint64_t offset, address, size;
};

struct symbol {
	uint64_t address;
	uint32_t size, name;
};

struct shim_elf {
	struct shim_elf_facts facts;
	struct segment segments[MOST_SEGMENTS];
	uint32_t segment_count;
	bool by_address; /* no segments: an offset is an address, and of two symbols the later holds */
	struct symbol *symbols; /* by address, once sorted */
	size_t count, room;
	char *names;
	size_t names_used, names_room;
};

static bool make_room(void **array, size_t *room, size_t wanted, size_t size)
{
	size_t more = *room ? *room : 256;
	void *moved;

	while (more < wanted)
		more *= 2;
	if (more == *room)
		return true;
	moved = realloc(*array, more * size);
	if (!moved)
		return false;
	*array = moved;
	*room = more;
	return true;
}

static bool add(shim_elf *elf, uint64_t address, uint64_t size, const char *name, size_t length)
{
	if (length > MOST_NAME)
		length = MOST_NAME;
	if (!length || elf->names_used + length + 1 > MOST_NAMES ||
	    !make_room((void **)&elf->names, &elf->names_room, elf->names_used + length + 1, 1) ||
	    !make_room((void **)&elf->symbols, &elf->room, elf->count + 1, sizeof(*elf->symbols)))
		return false;
	elf->symbols[elf->count++] = (struct symbol){
		address, size > UINT32_MAX ? UINT32_MAX : size, elf->names_used
	};
	memcpy(elf->names + elf->names_used, name, length);
	elf->names[elf->names_used + length] = '\0';
	elf->names_used += length + 1;
	return true;
}

/* Equal addresses stay in the order in which they were added. */
static int compare(const void *left, const void *right)
{
	const struct symbol *a = left, *b = right;

	if (a->address != b->address)
		return a->address < b->address ? -1 : 1;
	return a->name < b->name ? -1 : a->name > b->name;
}

/* Of open, open64, __open and __open64, which are one function, open is what programs call. */
static bool is_better(const shim_elf *elf, const struct symbol *a, const struct symbol *b)
{
	const char *left = elf->names + a->name, *right = elf->names + b->name;
	size_t left_bars = strspn(left, "_"), right_bars = strspn(right, "_");

	if (elf->by_address)
		return true;
	if (!a->size != !b->size)
		return a->size;
	if (left_bars != right_bars)
		return left_bars < right_bars;
	return strlen(left) < strlen(right);
}

/* Sort, leave one symbol at each address, and give back what memory is not needed. */
static void arrange(shim_elf *elf)
{
	size_t kept = 0;
	void *smaller;

	qsort(elf->symbols, elf->count, sizeof(*elf->symbols), compare);
	for (size_t i = 0; i < elf->count; i++) {
		struct symbol *last = elf->symbols + kept - 1, *next = elf->symbols + i;

		if (!kept || last->address != next->address)
			elf->symbols[kept++] = *next;
		else if (is_better(elf, next, last))
			*last = *next;
	}
	elf->count = kept;
	smaller = kept ? realloc(elf->symbols, kept * sizeof(*elf->symbols)) : NULL;
	if (smaller) {
		elf->symbols = smaller;
		elf->room = kept;
	}
	smaller = elf->names_used ? realloc(elf->names, elf->names_used) : NULL;
	if (smaller) {
		elf->names = smaller;
		elf->names_room = elf->names_used;
	}
	elf->facts.bytes = sizeof(*elf) + elf->room * sizeof(*elf->symbols) + elf->names_room;
}

static void read_segments(shim_elf *to, Elf *elf)
{
	size_t count = 0;
	GElf_Phdr header;

	elf_getphdrnum(elf, &count);
	for (size_t i = 0; i < count && i < MOST_SECTIONS; i++) {
		if (!gelf_getphdr(elf, i, &header))
			return;
		if (header.p_type == PT_LOAD && (header.p_flags & PF_X) &&
		    to->segment_count < MOST_SEGMENTS)
			to->segments[to->segment_count++] = (struct segment){
				header.p_offset, header.p_vaddr, header.p_filesz
			};
	}
}

static void read_symbols(shim_elf *to, Elf *elf, Elf_Scn *section, const GElf_Shdr *header)
{
	GElf_Shdr texts;
	Elf_Scn *linked = elf_getscn(elf, header->sh_link);
	Elf_Data *data;
	GElf_Sym symbol;

	if (header->sh_size > MOST_SECTION || !linked || !gelf_getshdr(linked, &texts) ||
	    texts.sh_type != SHT_STRTAB || texts.sh_size > MOST_SECTION)
		return;
	data = elf_getdata(section, NULL);
	for (int i = 0; data && gelf_getsym(data, i, &symbol); i++) {
		int type = GELF_ST_TYPE(symbol.st_info);
		const char *name;

		if ((type != STT_FUNC && type != STT_GNU_IFUNC) || symbol.st_shndx == SHN_UNDEF)
			continue;
		name = elf_strptr(elf, header->sh_link, symbol.st_name);
		if (name)
			add(to, symbol.st_value, symbol.st_size, name, strnlen(name, MOST_NAME));
	}
}

static void read_build_id(shim_elf *to, Elf_Data *data)
{
	size_t at = 0, name, content;
	GElf_Nhdr note;

	while (data && (at = gelf_getnote(data, at, &note, &name, &content))) {
		if (note.n_type != NT_GNU_BUILD_ID || note.n_namesz != 4 ||
		    memcmp((char *)data->d_buf + name, "GNU", 4) ||
		    note.n_descsz > sizeof(to->facts.build_id))
			continue;
		memcpy(to->facts.build_id, (char *)data->d_buf + content, note.n_descsz);
		to->facts.build_id_size = note.n_descsz;
		return;
	}
}

/* A file name, ended by NUL and padded to 4 bytes, then a checksum. */
static void read_debug_link(shim_elf *to, const Elf_Data *data)
{
	size_t length = data && data->d_buf ? strnlen(data->d_buf, data->d_size) : 0;
	size_t at = (length + 4) / 4 * 4;

	if (!length || length >= sizeof(to->facts.debug_link) || at + 4 > data->d_size)
		return;
	memcpy(to->facts.debug_link, data->d_buf, length);
	memcpy(&to->facts.debug_crc, (char *)data->d_buf + at, 4);
}

static void read_sections(shim_elf *to, Elf *elf)
{
	Elf_Scn *section = NULL, *symbols = NULL;
	GElf_Shdr header, symbols_header = {};
	size_t names = 0, seen = 0;

	elf_getshdrstrndx(elf, &names);
	while ((section = elf_nextscn(elf, section)) && seen++ < MOST_SECTIONS) {
		const char *name;

		if (!gelf_getshdr(section, &header))
			continue;
		if (header.sh_type == SHT_SYMTAB || (header.sh_type == SHT_DYNSYM && !symbols)) {
			symbols = section;
			symbols_header = header;
		} else if (header.sh_type == SHT_NOTE && header.sh_size < 4096) {
			read_build_id(to, elf_getdata(section, NULL));
		} else if (header.sh_type == SHT_PROGBITS && header.sh_size < 4096) {
			name = elf_strptr(elf, names, header.sh_name);
			if (name && !strcmp(name, ".gnu_debuglink"))
				read_debug_link(to, elf_rawdata(section, NULL));
		}
	}
	to->facts.has_symtab = symbols_header.sh_type == SHT_SYMTAB;
	if (symbols)
		read_symbols(to, elf, symbols, &symbols_header);
}

int shim_elf_open(int fd, shim_elf **ret)
{
	shim_elf *to = calloc(1, sizeof(*to));
	Elf *elf;

	if (!to)
		return -ENOMEM;
	elf_version(EV_CURRENT);
	elf = elf_begin(fd, ELF_C_READ, NULL);
	if (elf_kind(elf) != ELF_K_ELF) {
		elf_end(elf);
		free(to);
		return -ENOEXEC;
	}
	read_segments(to, elf);
	read_sections(to, elf);
	elf_end(elf);
	arrange(to);
	*ret = to;
	return 0;
}

/* Lines are "address size name" in hexadecimal; what is no such line is left out. */
int shim_elf_of_lines(const char *text, size_t size, shim_elf **ret)
{
	shim_elf *to = calloc(1, sizeof(*to));
	const char *end = text + size, *line_end;

	if (!to)
		return -ENOMEM;
	to->by_address = true;
	for (; (line_end = memchr(text, '\n', end - text)); text = line_end + 1) {
		char *after;
		uint64_t address = strtoull(text, &after, 16), length;

		if (after == text || *after != ' ')
			continue;
		length = strtoull(after, &after, 16);
		if (*after == ' ' && after < line_end)
			add(to, address, length, after + 1, line_end - after - 1);
	}
	arrange(to);
	*ret = to;
	return 0;
}

void shim_elf_close(shim_elf *elf)
{
	free(elf->symbols);
	free(elf->names);
	free(elf);
}

void shim_elf_describe(const shim_elf *elf, struct shim_elf_facts *ret)
{
	*ret = elf->facts;
}

static const struct symbol *find(const shim_elf *elf, uint64_t address)
{
	const struct symbol *nearest;
	size_t low = 0, high = elf->count;

	while (low < high) {
		size_t middle = (low + high) / 2;

		if (elf->symbols[middle].address <= address)
			low = middle + 1;
		else
			high = middle;
	}
	for (size_t i = low; i && i + MOST_NESTED > low; i--)
		if (address - elf->symbols[i - 1].address < elf->symbols[i - 1].size)
			return elf->symbols + i - 1;
	if (!low)
		return NULL;
	/* Right behind its end: there a call that never returns would return to. */
	nearest = elf->symbols + low - 1;
	return address - nearest->address == nearest->size ||
	       (!nearest->size && address - nearest->address < FAR) ? nearest : NULL;
}

int shim_elf_find(const shim_elf *elf, const shim_elf *debug, uint64_t offset, const char **name,
		  uint64_t *ret)
{
	const struct symbol *symbol = NULL;

	if (elf->by_address)
		symbol = find(elf, offset);
	for (uint32_t i = 0; i < elf->segment_count && !symbol; i++) {
		const struct segment *segment = elf->segments + i;

		if (offset - segment->offset >= segment->size)
			continue;
		offset += segment->address - segment->offset;
		symbol = find(debug, offset);
		break;
	}
	if (!symbol)
		return -ENOENT;
	*name = (elf->by_address ? elf : debug)->names + symbol->name;
	*ret = offset - symbol->address;
	return 0;
}

static char *(*cxa_demangle)(const char *, char *, size_t *, int *);

static void find_demangler(void)
{
	void *library = dlopen("libstdc++.so.6", RTLD_NOW | RTLD_LOCAL);

	if (library)
		cxa_demangle = dlsym(library, "__cxa_demangle");
}

/*
 * References to what stood before make a name grow: R of them to at most 3^(R/3) times its length,
 * seen as 500 MB from 250 bytes. Of 120,000 names in LLVM, Clang and Node 0.1 % have more than 24.
 */
static bool grows_too_much(const char *mangled)
{
	int growth = 0;

	for (const char *at = mangled; *at; at++) {
		if (*at == 'S' || *at == 'T')
			growth += at[1 + strspn(at + 1, "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ")] == '_';
		else if (!strncmp(at, "Dp", 2) || !strncmp(at, "sp", 2))
			growth += 8;
	}
	return growth > MOST_GROWTH;
}

int shim_demangle(const char *mangled, char *out, size_t out_size)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	char *name = NULL;
	int status;

	pthread_once(&once, find_demangler);
	if (cxa_demangle && strnlen(mangled, MOST_NAME) < MOST_NAME && !grows_too_much(mangled))
		name = cxa_demangle(mangled, NULL, NULL, &status);
	if (!name)
		return -EINVAL;
	strncpy(out, name, out_size - 1);
	out[out_size - 1] = '\0';
	free(name);
	return 0;
}
