// SPDX-License-Identifier: BSD-2-Clause
/*
 * storm WHAT COUNT CPU: make COUNT calls, or connections to itself, on one CPU, or switches between
 * two processes; print how many did what they should, and the ns. WHAT is open, stat, getppid, kill,
 * capable, connect or switch.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static long now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000000000L + time.tv_nsec;
}

static long left_cpu(void)
{
	struct rusage usage;

	getrusage(RUSAGE_SELF, &usage);
	return usage.ru_nvcsw + usage.ru_nivcsw;
}

/*
 * Pass a byte to and fro; return how often the two have left the CPU meanwhile. They have another
 * name then: they leave it before and after, too.
 */
static long switch_to_and_fro(long rounds)
{
	long *lefts = mmap(NULL, 2 * sizeof(long), PROT_READ | PROT_WRITE,
			   MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	int there[2], back[2];
	char byte = 0;
	pid_t child;
	long before;

	if (lefts == MAP_FAILED || pipe(there) || pipe(back) || (child = fork()) < 0)
		return 0;
	prctl(PR_SET_NAME, "switching");
	before = left_cpu();
	for (long i = 0; i < rounds; i++) {
		int failed = child ? write(there[1], &byte, 1) != 1 || read(back[0], &byte, 1) != 1 :
				     read(there[0], &byte, 1) != 1 || write(back[1], &byte, 1) != 1;
		if (failed)
			_exit(1);
	}
	lefts[!child] = left_cpu() - before;
	prctl(PR_SET_NAME, "storm");
	if (!child)
		_exit(0);
	waitpid(child, NULL, 0);
	return lefts[0] + lefts[1];
}

static int listen_on(struct sockaddr_in *ret)
{
	socklen_t size = sizeof(*ret);
	int listener = socket(AF_INET, SOCK_STREAM, 0);

	*ret = (struct sockaddr_in){ AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	if (bind(listener, (void *)ret, size) || listen(listener, 1) ||
	    getsockname(listener, (void *)ret, &size))
		exit(1);
	return listener;
}

/* Ended by a reset, lest ports run out. */
static int connect_once(int listener, const struct sockaddr_in *to)
{
	struct linger reset = { 1, 0 };
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	int works = !connect(fd, (void *)to, sizeof(*to));

	setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
	close(fd);
	close(accept(listener, NULL, NULL));
	return works;
}

static long open_file(void)
{
	int fd = openat(AT_FDCWD, "/etc/passwd", O_RDONLY);

	close(fd);
	return fd >= 0;
}

static long stat_file(void)
{
	struct stat status;

	return !stat("/etc/passwd", &status);
}

static long get_parent(void)
{
	return syscall(SYS_getppid) > 0;
}

/* The default action is to ignore this signal. */
static long send_signal(void)
{
	return !kill(getpid(), SIGURG);
}

/* The kernel checks CAP_SYS_ADMIN before it finds that the length is wrong. */
static long check_capability(void)
{
	return syscall(SYS_sethostname, "", -1) && errno == EINVAL;
}

static const struct {
	const char *what;
	long (*call)(void);
} calls[] = {
	{ "open", open_file },     { "stat", stat_file },	    { "getppid", get_parent },
	{ "kill", send_signal },   { "capable", check_capability },
};

int main(int argc, char **argv)
{
	if (argc != 4)
		return 2;
	int connects = !strcmp(argv[1], "connect");
	struct sockaddr_in address;
	int listener = connects ? listen_on(&address) : -1;
	long (*call)(void) = NULL;
	long count = atol(argv[2]), done = 0;
	cpu_set_t cpus;

	CPU_ZERO(&cpus);
	CPU_SET(atoi(argv[3]), &cpus);
	if (sched_setaffinity(0, sizeof(cpus), &cpus))
		return 1;
	long begin = now();

	for (size_t i = 0; i < sizeof(calls) / sizeof(*calls); i++)
		if (!strcmp(argv[1], calls[i].what))
			call = calls[i].call;
	if (!strcmp(argv[1], "switch")) {
		done = switch_to_and_fro(count / 2);
		count = 0;
	}
	for (long i = 0; i < count; i++)
		done += call ? call() : connect_once(listener, &address);
	/* printf() would ask for the state of its file: that is a stat more. */
	char told[64];
	int length = snprintf(told, sizeof(told), "%ld %ld\n", done, now() - begin);

	if (write(STDOUT_FILENO, told, length) != length)
		return 1;
	return 0;
}
