/*
 * The wall clock of one process, set off by a number of seconds that another process writes into a file.
 *
 * Preloaded. Only CLOCK_REALTIME is set off: monotonic clocks, and all waits of the kernel and of glibc that go
 * by them, stay as they are, which is what happens to a process when somebody sets the clock of the machine.
 * Without its file it ends the process: a clock that is not set off would prove nothing.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const _Atomic int64_t *off_s;

__attribute__((constructor)) static void find_file(void)
{
	const char *path = getenv("TORTURE_CLOCK");
	int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
	void *page = file < 0 ? MAP_FAILED : mmap(NULL, sizeof *off_s, PROT_READ, MAP_SHARED, file, 0);

	if (page == MAP_FAILED) {
		perror("TORTURE_CLOCK");
		_exit(97);
	}
	close(file);
	off_s = page;
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
	int result = (int)syscall(SYS_clock_gettime, clock, now);

	if (result == 0 && off_s && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
		now->tv_sec += atomic_load(off_s);
	return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
	struct timespec fine;

	(void)zone;
	clock_gettime(CLOCK_REALTIME, &fine);
	now->tv_sec = fine.tv_sec;
	now->tv_usec = fine.tv_nsec / 1000;
	return 0;
}

time_t time(time_t *where)
{
	struct timespec fine;

	clock_gettime(CLOCK_REALTIME, &fine);
	if (where)
		*where = fine.tv_sec;
	return fine.tv_sec;
}
