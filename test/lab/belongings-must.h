/* SPDX-License-Identifier: Apache-2.0 */
/* What all parts of the tree of belongings.c need: words for the first thing that is wrong, and bytes that differ from round to round. */
#ifndef BELONGINGS_MUST_H
#define BELONGINGS_MUST_H

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { PIPE_BYTES = 50000, LONG_S = 5000, PAGE = 4096, GHOST_BYTES = 100000 };

static char fault[256];
static const char *shared_folder, *own_folder;
static unsigned round_number; /* how often it has been checked */

static int wrong(const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(fault, sizeof(fault), format, arguments);
	va_end(arguments);
	return -1;
}

/* Ends the check with words for the first thing that is not as it must be. */
#define MUST(condition)                                                                                                 \
	do {                                                                                                            \
		errno = 0;                                                                                              \
		if (!(condition))                                                                                       \
			return wrong("%s, line %d: not %s (%s)", __func__, __LINE__, #condition, strerror(errno));      \
	} while (0)

static char pattern(size_t at)
{
	return (char)(at * 31 + at / 251 + round_number);
}

static int is_pattern(const char *bytes, size_t length)
{
	for (size_t at = 0; at < length; at++)
		if (bytes[at] != pattern(at))
			return 0;
	return 1;
}

static void fill(char *bytes, size_t length)
{
	for (size_t at = 0; at < length; at++)
		bytes[at] = pattern(at);
}

static char *path_in(const char *folder, const char *name)
{
	static char path[512];

	snprintf(path, sizeof(path), "%s/%s", folder, name);
	return path;
}

#endif
