// SPDX-License-Identifier: Apache-2.0
/*
 * The dump's side of criu-memory.c: CRIU reads a process's smaps for two things, what maps says and the flags of each mapping
 * (parse_smaps, criu/proc_parse.c), and the kernel visits every page for the rest. Where the daemon knows the flags
 * (cli/memory/mapping-flags.ts) CRIU is given those two.
 *
 * The file has a line for each mapping, in their order: `<start>-<end> <flags as in VmFlags>`, in hexadecimal.
 */
#undef _FILE_OFFSET_BITS /* it would rename the functions that are called here */
#define _GNU_SOURCE
#include "criu-memory.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define KERNEL (1ul << 63) /* [vsyscall] is there, which is no mapping of the process */

struct text {
	char *bytes;
	size_t length, room;
};

static bool append(struct text *to, const char *bytes, size_t length)
{
	if (to->room - to->length <= length) {
		char *more = realloc(to->bytes, 2 * (to->length + length) + 4096);

		if (!more)
			return false;
		to->bytes = more;
		to->room = 2 * (to->length + length) + 4096;
	}
	memcpy(to->bytes + to->length, bytes, length);
	to->length += length;
	to->bytes[to->length] = '\0';
	return true;
}

/* Closes it. -> false: it could not be read to its end */
static bool read_text(int fd, struct text *into)
{
	char piece[4096];
	ssize_t got = -1;

	if (fd < 0)
		return false;
	while ((got = read(fd, piece, sizeof piece)) > 0)
		if (!append(into, piece, got))
			break;
	close(fd);
	return got == 0 && into->length > 0;
}

/* -> what follows the range, NULL: it is none */
static const char *range_of(const char *line, struct range *range)
{
	char *end;

	range->start = strtoul(line, &end, 16);
	if (end == line || *end != '-')
		return NULL;
	range->end = strtoul(end + 1, &end, 16);
	return *end == ' ' ? end + 1 : NULL;
}

static bool join(const char *map, const char *flag, struct text *into)
{
	static const char title[] = "VmFlags: ";
	struct range mapping, told;

	for (const char *next; *map; map = next) {
		const char *end = strchr(map, '\n'), *told_end = strchr(flag, '\n'), *words;

		if (!end || !range_of(map, &mapping))
			return false;
		next = end + 1;
		if (!append(into, map, next - map))
			return false;
		if (mapping.start >= KERNEL)
			continue;
		words = range_of(flag, &told);
		if (!told_end || !words || told.start != mapping.start || told.end != mapping.end)
			return false;
		if (!append(into, title, sizeof title - 1) || !append(into, words, told_end + 1 - words))
			return false;
		flag = told_end + 1;
	}
	return *flag == '\0';
}

int known_smaps(int process)
{
	struct text maps = {0}, flags = {0}, all = {0};
	int fd = -1;

	if (read_text(open_beside("mapping-flags", O_RDONLY), &flags) &&
	    read_text(syscall(SYS_openat, process, "maps", O_RDONLY | O_CLOEXEC, 0), &maps) && join(maps.bytes, flags.bytes, &all))
		fd = syscall(SYS_memfd_create, "smaps", MFD_CLOEXEC);
	for (size_t done = 0; fd >= 0 && done < all.length;) {
		const ssize_t put = write(fd, all.bytes + done, all.length - done);

		if (put <= 0) {
			close(fd);
			fd = -1;
			break;
		}
		done += put;
	}
	if (fd >= 0)
		lseek(fd, 0, SEEK_SET);
	free(maps.bytes);
	free(flags.bytes);
	free(all.bytes);
	return fd;
}
