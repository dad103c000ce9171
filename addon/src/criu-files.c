// SPDX-License-Identifier: Apache-2.0
/*
 * What CRIU opens, reads and writes for each connection, and what is not worth a file (criu-streams.c). CRIU is given a number for it
 * that no descriptor has, so that none can be in the way of those that are restored.
 */
#undef _FILE_OFFSET_BITS /* it would rename the functions that are defined here */
#define _GNU_SOURCE
#include "criu-hooks.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <sys/syscall.h>
#include <sys/uio.h>

EXPORT int openat64(int dirfd, const char *path, int flags, ...)
{
	static int (*next)(int dirfd, const char *path, int flags, ...);
	mode_t mode = 0;
	int fd;

	if (flags & (O_CREAT | O_TMPFILE)) {
		va_list rest;

		va_start(rest, flags);
		mode = va_arg(rest, mode_t);
		va_end(rest);
	}
	fd = open_stream(dirfd, path, flags, mode);
	if (fd != NOT_OURS)
		return fd;
	if (!next)
		next = (int (*)(int, const char *, int, ...))dlsym(RTLD_NEXT, "openat64");
	return next(dirfd, path, flags, mode);
}

EXPORT int openat(int dirfd, const char *path, int flags, ...) __attribute__((alias("openat64")));

EXPORT ssize_t read(int fd, void *into, size_t bytes)
{
	return fd == STREAM ? read_stream(into, bytes) : libc_syscall()(SYS_read, fd, into, bytes);
}

EXPORT ssize_t write(int fd, const void *from, size_t bytes)
{
	return fd == STREAM ? write_stream(from, bytes) : libc_syscall()(SYS_write, fd, from, bytes);
}

EXPORT ssize_t writev(int fd, const struct iovec *pieces, int count)
{
	ssize_t done = 0;

	if (fd != STREAM)
		return libc_syscall()(SYS_writev, fd, pieces, count);
	for (int i = 0; i < count; i++) {
		if (write_stream(pieces[i].iov_base, pieces[i].iov_len) < 0)
			return -1;
		done += pieces[i].iov_len;
	}
	return done;
}

EXPORT int close(int fd)
{
	return fd == STREAM ? 0 : libc_syscall()(SYS_close, fd);
}
