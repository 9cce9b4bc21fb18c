/* SPDX-License-Identifier: BSD-2-Clause */
/* Look up hosts as a 32-bit program, for which there are no headers and no startup files. */
#define AF_INET 2

int getaddrinfo(const char *, const char *, const void *, void **);
void *gethostbyname(const char *);
int gethostbyname2_r(const char *, int, void *, char *, unsigned long, void **, int *);
int gethostbyaddr_r(const void *, unsigned int, int, void *, char *, unsigned long, void **, int *);
void _exit(int);

__attribute__((force_align_arg_pointer)) void _start(void)
{
	static char entry[64], buffer[4096];
	void *found;
	int error;

	getaddrinfo("ok.test", 0, 0, &found);
	getaddrinfo("missing.test", 0, 0, &found);
	gethostbyname("ok.test");
	gethostbyname("missing.test");
	gethostbyname2_r("ok.test", AF_INET, entry, buffer, sizeof(buffer), &found, &error);
	gethostbyname2_r("missing.test", AF_INET, entry, buffer, sizeof(buffer), &found, &error);
	gethostbyaddr_r("\xc0\0\2\x9", 4, AF_INET, entry, buffer, sizeof(buffer), &found, &error);
	_exit(0);
}
