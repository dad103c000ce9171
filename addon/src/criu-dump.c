// SPDX-License-Identifier: Apache-2.0
/* The dump's side of criu-memory.c: CRIU finds no pages in the mappings that are not its own. */
#undef _FILE_OFFSET_BITS /* it would rename the functions that are defined here */
#define _GNU_SOURCE
#include "criu-memory.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <sys/syscall.h>
#include <unistd.h>

/* linux/fs.h of 6.7: _IOWR('f', 16, struct pm_scan_arg) */
#define PM_SCAN 0xc0606610u
#define PM_PRESENT (1u << 3)

struct pm_region {
	uint64_t start, end, categories;
};

struct pm_scan {
	uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
	uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};

static struct range mappings[MAX_MAPPINGS];
static unsigned int mapping_count;

static bool announce(void)
{
	static const char line[] = "gate\n";
	int fd = open_beside("hooks.log", O_WRONLY | O_APPEND);
	bool done = fd >= 0 && write(fd, line, sizeof line - 1) == sizeof line - 1;

	if (fd >= 0)
		close(fd);
	return done;
}

/*
 * Waits for the daemon's word. It holds the FIFO open from before CRIU's start to its own end, so the end of the file says that
 * nobody is there. The dump fails then, here, where CRIU has nothing in the process yet and lets it go as it was.
 */
bool pass_gate(void)
{
	int fd = open_beside("gate", O_RDONLY | O_NONBLOCK);
	uint64_t count = 0;
	bool good;

	if (fd < 0)
		return errno == ENOENT;
	good = announce() && read_all(fd, &count, sizeof count) == 1 && count <= MAX_MAPPINGS;
	if (good && count > 0)
		good = read_all(fd, mappings, count * sizeof *mappings) == 1;
	close(fd);
	if (!good)
		return false;
	mapping_count = count;
	return true;
}

static int hidden(uint64_t address)
{
	unsigned int low = 0, high = mapping_count;

	while (low < high) {
		unsigned int middle = (low + high) / 2;

		if (mappings[middle].end <= address)
			low = middle + 1;
		else
			high = middle;
	}
	return low < mapping_count && mappings[low].start <= address ? (int)low : -1;
}

/* Scans piece by piece what is not hidden: no region that is found crosses the border of a mapping that is. */
static long scan_the_rest(int fd, unsigned long request, struct pm_scan *scan)
{
	uint64_t at = scan->start;
	long found = 0;

	while (at < scan->end) {
		struct pm_scan piece = *scan;
		const int which = hidden(at);
		long count;

		if (which >= 0) {
			at = mappings[which].end < scan->end ? mappings[which].end : scan->end;
			continue;
		}
		piece.start = at;
		for (unsigned int m = 0; m < mapping_count; m++)
			if (mappings[m].start > at && mappings[m].start < piece.end)
				piece.end = mappings[m].start;
		piece.vec += found * sizeof(struct pm_region);
		piece.vec_len -= found;
		if (piece.vec_len == 0)
			break;
		count = syscall(SYS_ioctl, fd, request, &piece);
		if (count < 0)
			return -1;
		found += count;
		at = piece.walk_end;
		if (piece.walk_end < piece.end)
			break;
	}
	scan->walk_end = at;
	return found;
}

EXPORT int ioctl(int fd, unsigned long request, ...)
{
	struct pm_scan *scan;
	va_list rest;
	void *argument;

	va_start(rest, request);
	argument = va_arg(rest, void *);
	va_end(rest);
	scan = argument;
	if ((uint32_t)request == PM_SCAN && mapping_count > 0 && scan->category_anyof_mask & PM_PRESENT)
		return scan_the_rest(fd, request, scan);
	return syscall(SYS_ioctl, fd, request, argument);
}
