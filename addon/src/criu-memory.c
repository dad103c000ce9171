// SPDX-License-Identifier: Apache-2.0
/*
 * Keeps the large memory of a process out of CRIU's hands. CRIU loads this object (LD_PRELOAD) and is not changed; what it
 * does for a process with little memory is not touched either. HOMEPROXY_MEMORY names the folder of its images.
 *
 * Dump: before CRIU reads the first task's smaps, with all tasks seized and its own code in none, it writes "gate" into hooks.log
 * and waits at the FIFO `gate`. The daemon takes its last look at the memory, and says through the gate which mappings it carries
 * itself: CRIU is told that no page is in them. When the daemon is gone the dump fails there, and CRIU lets the tasks go.
 *
 * Restore: before CRIU reads its inventory, the memory comes through the FIFO `memory` and is put, page by page, into CRIU's
 * own address space, each page at its later address with one bit changed. What CRIU forks inherits it. Where CRIU then would
 * read the first page of such a mapping from the parent's images, the whole mapping is moved there (mremap): nothing is copied
 * in the freeze, and nothing is left to be fetched later. CRIU unmaps the rest, as it does with all its own memory.
 *
 * A record in `memory`, integers big endian, begins with
 *
 *   0          4          8                 16                24
 *   +----------+----------+-----------------+-----------------+
 *   | kind     | 0        | start (u64)     | bytes (u64)     | content of PAGES
 *   +----------+----------+-----------------+-----------------+
 *
 *   1 AREA     a mapping of the process, in which pages may come
 *   2 PAGES    content follows
 *   3 ZERO     the pages are zero
 *   4 MAPPING  what the process has in the end, ascending; all of them before the first KEEP
 *   5 KEEP     pages that it has in the end, ascending; all others are forgotten
 *   6 END
 *   7 LIFE     nothing; the sender lives
 *   8 DENSE    pages that all come, before the first of them
 *   9 LATER    pages that it has, ascending, and that come when it runs (criu-pager.c); after the last MAPPING
 */
#undef _FILE_OFFSET_BITS /* it would rename the functions that are defined here */
#define _GNU_SOURCE
#include "criu-memory.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static char folder[4096];
static uint64_t room; /* pages that may come */
static bool gate_asked, memory_asked;

__attribute__((constructor)) static void prepare(void)
{
	const char *named = getenv("HOMEPROXY_MEMORY"), *limit = getenv("HOMEPROXY_MEMORY_LIMIT");

	if (named && strlen(named) < sizeof folder)
		strcpy(folder, named);
	if (limit)
		room = strtoull(limit, NULL, 10) / PAGE;
	if (dlsym(RTLD_DEFAULT, "criu_get_image_dir")) /* as criu-hooks.c, whoever comes first */
		unsetenv("LD_PRELOAD");
}

int open_beside(const char *name, int flags)
{
	char path[sizeof folder + 16];

	snprintf(path, sizeof path, "%s/%s", folder, name);
	return syscall(SYS_openat, AT_FDCWD, path, flags | O_CLOEXEC, 0);
}

int read_all(int fd, void *into, size_t bytes)
{
	size_t done = 0;

	while (done < bytes) {
		ssize_t got = read(fd, (char *)into + done, bytes - done);

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0 && errno == EAGAIN) {
			struct pollfd ready = {.fd = fd, .events = POLLIN};

			if (poll(&ready, 1, GATE_MS) > 0)
				continue;
		}
		if (got == 0 && done == 0)
			return 0;
		if (got <= 0)
			return -1;
		done += got;
	}
	return 1;
}

static bool of_other_process(int dirfd)
{
	char link[64], target[64], own[64];
	ssize_t length;

	snprintf(link, sizeof link, "/proc/self/fd/%d", dirfd);
	length = readlink(link, target, sizeof target - 1);
	if (length < 0)
		return false;
	target[length] = 0;
	snprintf(own, sizeof own, "/proc/%d", getpid());
	return strcmp(target, own) != 0;
}

EXPORT int openat64(int dirfd, const char *path, int flags, ...)
{
	va_list rest;
	mode_t mode = 0;

	if (flags & (O_CREAT | O_TMPFILE)) {
		va_start(rest, flags);
		mode = va_arg(rest, mode_t);
		va_end(rest);
	}
	if (folder[0] && !gate_asked && strcmp(path, "smaps") == 0 && of_other_process(dirfd)) {
		gate_asked = true;
		if (!pass_gate()) {
			errno = EIO;
			return -1;
		}
		const int known = known_smaps(dirfd);

		if (known >= 0)
			return known;
	}
	if (folder[0] && !memory_asked && strcmp(path, "inventory.img") == 0 && (flags & O_ACCMODE) == O_RDONLY) {
		memory_asked = true;
		if (!take_memory(room)) {
			errno = EIO;
			return -1;
		}
		/* a FIFO: it opens when all is there */
		const int inventory = syscall(SYS_openat, dirfd, path, flags, mode);

		if (inventory >= 0 && !know_listeners()) {
			close(inventory);
			errno = EIO;
			return -1;
		}
		if (inventory >= 0)
			know_places();
		return inventory;
	}
	return syscall(SYS_openat, dirfd, path, flags, mode);
}

EXPORT int openat(int dirfd, const char *path, int flags, ...) __attribute__((alias("openat64")));
