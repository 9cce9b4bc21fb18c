// SPDX-License-Identifier: BSD-2-Clause
/* storm open|getppid COUNT CPU: make COUNT calls on one CPU; print how many worked and the ns. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static long now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000000000L + time.tv_nsec;
}

int main(int argc, char **argv)
{
	if (argc != 4)
		return 2;
	int opens = !strcmp(argv[1], "open");
	long count = atol(argv[2]), done = 0;
	cpu_set_t cpus;

	CPU_ZERO(&cpus);
	CPU_SET(atoi(argv[3]), &cpus);
	if (sched_setaffinity(0, sizeof(cpus), &cpus))
		return 1;
	long begin = now();

	for (long i = 0; i < count; i++) {
		if (opens) {
			int fd = openat(AT_FDCWD, "/etc/passwd", O_RDONLY);

			done += fd >= 0;
			close(fd);
		} else {
			done += syscall(SYS_getppid) > 0;
		}
	}
	printf("%ld %ld\n", done, now() - begin);
	return 0;
}
