/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Look up hosts, each by an argument FUNCTION:HOST, and tell what the C library has returned. Says
 * "ready" first and waits for a line. In place of a function there may be a way to call one.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define THREADS 7
#define NAMED(value)                                                                           \
	case value:                                                                            \
		return #value

static sigjmp_buf before;

static const char *name_eai(int error)
{
	switch (error) {
	case 0:
		return "OK";
		NAMED(EAI_BADFLAGS);
		NAMED(EAI_NONAME);
		NAMED(EAI_AGAIN);
		NAMED(EAI_FAIL);
		NAMED(EAI_FAMILY);
		NAMED(EAI_SERVICE);
#ifdef EAI_NODATA
		NAMED(EAI_NODATA);
#endif
	default:
		return "?";
	}
}

static const char *name_host_error(int error)
{
	switch (error) {
		NAMED(HOST_NOT_FOUND);
		NAMED(TRY_AGAIN);
		NAMED(NO_RECOVERY);
		NAMED(NO_DATA);
	default:
		return "?";
	}
}

static const char *name_result(const void *found)
{
	return found ? "OK" : name_host_error(h_errno);
}

static const char *name_result_r(int error, const void *found, int host_error)
{
	return error == ERANGE ? "ERANGE" : !error && found ? "OK" : name_host_error(host_error);
}

static const char *by_getaddrinfo(const char *host)
{
	struct addrinfo *found, hints = { .ai_socktype = SOCK_STREAM };
	int error = getaddrinfo(host, NULL, &hints, &found);

	if (!error)
		freeaddrinfo(found);
	return name_eai(error);
}

static const char *without_host(const char *service)
{
	struct addrinfo *found;
	int error = getaddrinfo(NULL, service, NULL, &found);

	if (!error)
		freeaddrinfo(found);
	return name_eai(error);
}

static const char *by_gethostbyname(const char *host)
{
	return name_result(gethostbyname(host));
}

static const char *by_gethostbyname2(const char *host)
{
	return name_result(gethostbyname2(host, AF_INET));
}

static const char *by_gethostbyname_r(const char *host)
{
	struct hostent entry, *found = NULL;
	char buffer[4096];
	int host_error = 0;
	int error = gethostbyname_r(host, &entry, buffer, sizeof(buffer), &found, &host_error);

	return name_result_r(error, found, host_error);
}

static const char *by_gethostbyname2_r(const char *host)
{
	struct hostent entry, *found = NULL;
	char buffer[4096];
	int host_error = 0;
	int error = gethostbyname2_r(host, AF_INET, &entry, buffer, sizeof(buffer), &found,
				     &host_error);

	return name_result_r(error, found, host_error);
}

/* With too small a buffer, and an h_errno that is left over. */
static const char *in_little(const char *host)
{
	struct hostent entry, *found = NULL;
	char buffer[8];
	int host_error = TRY_AGAIN;
	int error = gethostbyname_r(host, &entry, buffer, sizeof(buffer), &found, &host_error);

	return name_result_r(error, found, host_error);
}

static size_t parse_address(const char *text, int *family, char *ret)
{
	*family = strchr(text, ':') ? AF_INET6 : AF_INET;
	inet_pton(*family, text, ret);
	return *family == AF_INET ? 4 : 16;
}

static const char *by_gethostbyaddr(const char *host)
{
	char address[16];
	int family;
	size_t size = parse_address(host, &family, address);

	return name_result(gethostbyaddr(address, size, family));
}

static const char *by_gethostbyaddr_r(const char *host)
{
	struct hostent entry, *found = NULL;
	char address[16], buffer[4096];
	int family, host_error = 0;
	size_t size = parse_address(host, &family, address);
	int error = gethostbyaddr_r(address, size, family, &entry, buffer, sizeof(buffer), &found,
				    &host_error);

	return name_result_r(error, found, host_error);
}

/* With a host's name that lies in memory which nobody has touched yet. */
static const char *from_untouched_memory(const char *host)
{
	char path[] = "/tmp/lookups-XXXXXX";
	int fd = mkstemp(path);
	const char *at;

	if (fd < 0 || write(fd, host, strlen(host) + 1) < 0)
		return "?";
	unlink(path);
	at = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
	close(fd);
	return by_getaddrinfo(at);
}

static void look_up_another(int number)
{
	by_gethostbyname("inner.test");
}

/* While a handler of a signal that the server sends looks up another one. */
static const char *interrupted(const char *host)
{
	signal(SIGUSR1, look_up_another);
	return by_getaddrinfo(host);
}

static void jump(int number)
{
	siglongjmp(before, 1);
}

/* Until a signal that the server sends has it go on without an answer. */
static const char *left(const char *host)
{
	signal(SIGUSR1, jump);
	return sigsetjmp(before, 1) ? "LEFT" : by_getaddrinfo(host);
}

static void *in_thread(void *host)
{
	by_getaddrinfo(host);
	return NULL;
}

static const char *in_threads(const char *host)
{
	pthread_t threads[THREADS];

	for (int i = 0; i < THREADS; i++)
		pthread_create(threads + i, NULL, in_thread, (void *)host);
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	return "OK";
}

static void execute(int number)
{
	execl("/bin/cat", "cat", NULL);
}

static void *in_thread_with_signals(void *host)
{
	sigset_t none;

	sigemptyset(&none);
	pthread_sigmask(SIG_SETMASK, &none, NULL);
	return in_thread(host);
}

/* In a thread that runs another program when the server sends a signal. */
static const char *executed(const char *host)
{
	sigset_t all;
	pthread_t thread;

	signal(SIGUSR1, execute);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, NULL);
	pthread_create(&thread, NULL, in_thread_with_signals, (void *)host);
	pthread_join(thread, NULL);
	return "?";
}

static const struct {
	const char *name;
	const char *(*call)(const char *);
} ways[] = {
	{ "getaddrinfo", by_getaddrinfo },
	{ "gethostbyname", by_gethostbyname },
	{ "gethostbyname2", by_gethostbyname2 },
	{ "gethostbyname_r", by_gethostbyname_r },
	{ "gethostbyname2_r", by_gethostbyname2_r },
	{ "gethostbyaddr", by_gethostbyaddr },
	{ "gethostbyaddr_r", by_gethostbyaddr_r },
	{ "service", without_host },
	{ "little", in_little },
	{ "untouched", from_untouched_memory },
	{ "interrupted", interrupted },
	{ "left", left },
	{ "threads", in_threads },
	{ "executed", executed },
};

static long long now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000000000LL + time.tv_nsec;
}

int main(int argc, char **argv)
{
	puts("ready");
	fflush(stdout);
	getchar();
	for (int i = 1; i < argc; i++) {
		char *host = strchr(argv[i], ':');

		*host++ = 0;
		for (size_t way = 0; way < sizeof(ways) / sizeof(*ways); way++) {
			if (strcmp(argv[i], ways[way].name))
				continue;

			long long begin = now();
			const char *result = ways[way].call(host);

			printf("%s %s %lld\n", argv[i], result, now() - begin);
			fflush(stdout);
		}
	}
	return 0;
}
