/* SPDX-License-Identifier: Apache-2.0 */
/* What is loaded into every CRIU (criu-hooks.c): its parts, and what they have in common. */
#pragma once

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#define EXPORT __attribute__((visibility("default")))

/* No descriptor has such a number: fs.nr_open is less (sysctl_nr_open_max, fs/file.c). */
#define STREAM INT_MAX
/* CRIU's own affair. */
#define NOT_OURS (-2)

/* syscall(2) of the C library, or of what was loaded after this: the one here is criu-epoll.c's. */
extern long (*libc_syscall(void))(long number, ...);

/* The image of a connection (criu-streams.c). -> STREAM, -1, or NOT_OURS */
int open_stream(int dirfd, const char *path, int flags, mode_t mode);
ssize_t read_stream(void *into, size_t bytes);
ssize_t write_stream(const void *from, size_t bytes);

/* In a dump, once CRIU has no more connections to write. -> false: they are not all in the folder */
bool streams_written(void);
