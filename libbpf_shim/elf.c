/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Names of functions, from ELF files, from the lines that JIT compilers write for perf, and from
 * those of kallsyms. Other people write these files: what is wrong in them must cost names and
 * nothing else, and only so much of them is read. No file is mapped, because to read a mapping of a
 * file that has shrunk would kill this process.
 */
#include <dlfcn.h>
#include <errno.h>
#include <gelf.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include "shim.h"

#define MOST_SECTIONS 4096
#define MOST_SECTION (128u << 20) /* bytes; the largest programs need half of it */
#define MOST_NAME 1024
#define MOST_NESTED 32 /* symbols between a function's own and an address in it */
#define FAR (1u << 20) /* where a symbol without a size ends, if no other follows */
#define MOST_GROWTH 24

struct shim_symbol {
	uint64_t address;
	const char *name;
	uint32_t size;
	uint32_t rank : 31; /* of several symbols at an address, the highest is shown */
	uint32_t resolver : 1; /* it is no function, but chooses one */
};

static bool is_before(const struct shim_symbol *a, const struct shim_symbol *b)
{
	return a->address != b->address ? a->address < b->address : a->rank < b->rank;
}

static int compare(const void *left, const void *right)
{
	return is_before(right, left) - is_before(left, right);
}

static void add(shim_elf *elf, struct shim_symbol symbol)
{
	struct shim_symbol *last;

	if (!(elf->count & (elf->count - 1))) { /* 0 or a power of two: it is full */
		last = realloc(elf->symbols, (elf->count ? 2 * elf->count : 1) * sizeof(*last));
		if (!last)
			return;
		elf->symbols = last;
	}
	last = elf->symbols + elf->count - 1;
	elf->unsorted |= elf->count && is_before(&symbol, last);
	elf->symbols[elf->count++] = symbol;
}

static void arrange(shim_elf *elf)
{
	void *smaller = realloc(elf->symbols, elf->count * sizeof(*elf->symbols) + 1);

	if (smaller)
		elf->symbols = smaller;
	if (elf->unsorted)
		qsort(elf->symbols, elf->count, sizeof(*elf->symbols), compare);
	elf->bytes += sizeof(*elf) + elf->count * sizeof(*elf->symbols);
}

/* open, open64, __open and __open64 are one function, and programs call it open. */
static uint32_t rank_of(const GElf_Sym *symbol, const char *name)
{
	uint32_t bars = 0;

	while (bars < 255 && name[bars] == '_')
		bars++;
	return (symbol->st_size > 0) << 20 | (255 - bars) << 12 | (MOST_NAME - strnlen(name, MOST_NAME));
}

static void read_segments(shim_elf *to, Elf *elf)
{
	const uint32_t most = sizeof(to->segments) / sizeof(*to->segments);
	GElf_Phdr header;

	for (int i = 0; i < MOST_SECTIONS && gelf_getphdr(elf, i, &header); i++)
		if (header.p_type == PT_LOAD && (header.p_flags & PF_X) && to->segment_count < most)
			to->segments[to->segment_count++] = (struct shim_segment){
				header.p_offset, header.p_vaddr, header.p_filesz
			};
}

static Elf_Data *content_of(Elf_Scn *section, const GElf_Shdr *header, size_t most)
{
	Elf_Data *data = header->sh_size <= most ? elf_getdata(section, NULL) : NULL;

	return data && data->d_buf ? data : NULL;
}

/* A table of texts. It must end with a NUL, so that each text does. */
static Elf_Data *texts_of(Elf *elf, size_t index)
{
	Elf_Scn *section = elf_getscn(elf, index);
	GElf_Shdr header;
	Elf_Data *data;

	if (!section || !gelf_getshdr(section, &header) || header.sh_type != SHT_STRTAB)
		return NULL;
	data = content_of(section, &header, MOST_SECTION);
	return data && data->d_size && !((char *)data->d_buf)[data->d_size - 1] ? data : NULL;
}

static void read_symbols(shim_elf *to, Elf *elf, Elf_Scn *section)
{
	GElf_Shdr header;
	Elf_Data *texts, *data;
	GElf_Sym symbol;

	if (!section || !gelf_getshdr(section, &header))
		return;
	texts = texts_of(elf, header.sh_link);
	data = texts ? content_of(section, &header, MOST_SECTION) : NULL;
	for (int i = 0; data && gelf_getsym(data, i, &symbol); i++) {
		bool resolver = GELF_ST_TYPE(symbol.st_info) == STT_GNU_IFUNC;
		const char *name = (char *)texts->d_buf + symbol.st_name;

		if ((!resolver && GELF_ST_TYPE(symbol.st_info) != STT_FUNC) ||
		    symbol.st_shndx == SHN_UNDEF || symbol.st_name >= texts->d_size || !*name)
			continue;
		add(to, (struct shim_symbol){
			symbol.st_value, name, symbol.st_size > UINT32_MAX ? UINT32_MAX : symbol.st_size,
			rank_of(&symbol, name), resolver
		});
	}
	to->bytes += data ? data->d_size + texts->d_size : 0;
}

static void read_build_id(shim_elf *to, Elf_Data *data)
{
	size_t at = 0, name, content;
	GElf_Nhdr note;

	while (data && (at = gelf_getnote(data, at, &note, &name, &content))) {
		if (note.n_type != NT_GNU_BUILD_ID || note.n_namesz != 4 ||
		    memcmp((char *)data->d_buf + name, "GNU", 4) ||
		    note.n_descsz > sizeof(to->build_id))
			continue;
		memcpy(to->build_id, (char *)data->d_buf + content, note.n_descsz);
		to->build_id_size = note.n_descsz;
		return;
	}
}

/* A file name, ended by NUL and padded to 4 bytes, then a checksum. */
static void read_debug_link(shim_elf *to, const Elf_Data *data)
{
	size_t length = data ? strnlen(data->d_buf, data->d_size) : 0;
	size_t at = (length + 4) / 4 * 4;

	if (!length || length >= sizeof(to->debug_link) || at + 4 > data->d_size)
		return;
	memcpy(to->debug_link, data->d_buf, length);
	memcpy(&to->debug_crc, (char *)data->d_buf + at, 4);
}

static void read_sections(shim_elf *to, Elf *elf)
{
	Elf_Scn *section = NULL, *symbols = NULL, *exported = NULL;
	GElf_Shdr header;
	size_t index = 0, seen = 0;

	elf_getshdrstrndx(elf, &index);

	Elf_Data *names = texts_of(elf, index);

	while ((section = elf_nextscn(elf, section)) && seen++ < MOST_SECTIONS) {
		if (!gelf_getshdr(section, &header))
			continue;
		if (header.sh_type == SHT_SYMTAB)
			symbols = section;
		else if (header.sh_type == SHT_DYNSYM)
			exported = section;
		else if (header.sh_type == SHT_NOTE)
			read_build_id(to, content_of(section, &header, 4096));
		else if (header.sh_type == SHT_PROGBITS && names && header.sh_name < names->d_size &&
			 !strcmp((char *)names->d_buf + header.sh_name, ".gnu_debuglink"))
			read_debug_link(to, content_of(section, &header, 4096));
	}
	to->has_symtab = symbols != NULL;
	read_symbols(to, elf, symbols);
	read_symbols(to, elf, exported);
}

int shim_elf_open(int fd, shim_elf **ret)
{
	shim_elf *to = calloc(1, sizeof(*to));
	Elf *elf;

	if (!to)
		return -ENOMEM;
	elf_version(EV_CURRENT);
	to->file = elf = elf_begin(fd, ELF_C_READ, NULL);
	if (elf_kind(elf) != ELF_K_ELF) {
		shim_elf_close(to);
		return -ENOEXEC;
	}
	read_segments(to, elf);
	read_sections(to, elf);
	elf_cntl(elf, ELF_C_FDDONE); /* the names are in memory by now */
	arrange(to);
	*ret = to;
	return 0;
}

int shim_elf_of_lines(char *text, size_t size, int kallsyms, shim_elf **ret)
{
	shim_elf *to = calloc(1, sizeof(*to));
	char *line, *end;

	if (!to)
		return -ENOMEM;
	to->segments[to->segment_count++].size = UINT64_MAX; /* an offset is an address */
	for (line = text; (end = memchr(line, '\n', text + size - line)); line = end + 1) {
		uint64_t address, length = 0;
		char *at;

		*end = '\0';
		address = strtoull(line, &at, 16);
		if (!address || *at != ' ')
			continue;
		if (!kallsyms) {
			length = strtoull(at, &at, 16);
		} else if (!at[1] || !strchr("tTwW", at[1])) {
			continue;
		} else {
			at += 2;
			at[strcspn(at, "\t")] = '\0';
		}
		if (*at == ' ' && at[1])
			add(to, (struct shim_symbol){
				address, at + 1, length > UINT32_MAX ? UINT32_MAX : length, to->count, 0
			}); /* the last one of an address is kept */
	}
	to->bytes = size;
	arrange(to);
	*ret = to;
	return 0;
}

void shim_elf_close(shim_elf *elf)
{
	elf_end(elf->file);
	free(elf->symbols);
	free(elf);
}

static const struct shim_symbol *find(const shim_elf *elf, uint64_t address)
{
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

	/* Right behind its end may be the return address of a call that never returns. */
	const struct shim_symbol *nearest = elf->symbols + low - 1;

	return address - nearest->address == nearest->size ||
	       (!nearest->size && address - nearest->address < FAR) ? nearest : NULL;
}

int shim_elf_find(const shim_elf *elf, const shim_elf *debug, uint64_t offset, const char **name,
		  uint64_t *ret)
{
	const struct shim_segment *segment = elf->segments, *end = segment + elf->segment_count;
	const struct shim_symbol *symbol = NULL;

	while (segment < end && offset - segment->offset >= segment->size)
		segment++;
	if (segment < end) {
		offset += segment->address - segment->offset;
		symbol = find(debug, offset);
	}
	if (!symbol)
		return -ENOENT;
	*name = symbol->name;
	*ret = offset - symbol->address;
	return 0;
}

int shim_elf_offset(const shim_elf *elf, const char *name, uint64_t *ret)
{
	for (size_t i = 0; i < elf->count; i++) {
		const struct shim_symbol *symbol = elf->symbols + i;

		if (symbol->resolver || strcmp(symbol->name, name))
			continue;
		for (uint32_t each = 0; each < elf->segment_count; each++) {
			const struct shim_segment *segment = elf->segments + each;

			*ret = symbol->address - segment->address + segment->offset;
			if (symbol->address - segment->address < segment->size)
				return 0;
		}
	}
	return -ENOENT;
}

static char *(*cxa_demangle)(const char *, char *, size_t *, int *);

static void find_demangler(void)
{
	void *library = dlopen("libstdc++.so.6", RTLD_NOW | RTLD_LOCAL);

	if (library)
		cxa_demangle = dlsym(library, "__cxa_demangle");
}

/*
 * References to earlier parts make a name grow: R references to up to 3^(R/3) times its length. A
 * name of 250 bytes was seen to become 500 MB. Of 120,000 names in LLVM, Clang and Node, 0.1 % have
 * more than 24 references.
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
