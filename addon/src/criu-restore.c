// SPDX-License-Identifier: Apache-2.0
/* The restore's side of criu-memory.c: memory arrives in CRIU's own address space, and is moved from there. */
#undef _FILE_OFFSET_BITS /* it would rename the functions that are defined here */
#define _GNU_SOURCE
#include "criu-memory.h"

#include <dlfcn.h>
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define ADDRESS_BIT (1ul << 46)
#define ADDRESS_END (1ul << 47)
#define MAX_AREAS 16384
#define MAX_KEPT (1u << 20)
#define LARGE_AREA (16ul << 20)

enum { AREA = 1, PAGES, ZERO, MAPPING, KEEP, END, LIFE, DENSE, LATER };

struct record {
	uint32_t kind, zero;
	uint64_t start, bytes;
};

/* Part of the address space that is there for arriving pages; a bit for each that has come. */
struct area {
	uint64_t start, end;
	uint8_t *come;
};

/* linux/fs.h of 6.11 */
struct procmap_query {
	uint64_t size, flags, address, start, end, mapping_flags, page_size, offset, inode;
	uint32_t major, minor, name_size, build_id_size;
	uint64_t name, build_id;
};

#define PROCMAP_QUERY _IOWR('f', 17, struct procmap_query)

static uint64_t room; /* pages that may still come */
static bool memory_came;
static pid_t taker; /* CRIU itself, not what it has forked */
static struct range mappings[MAX_MAPPINGS];
static unsigned int mapping_count;
static struct area areas[MAX_AREAS];
static unsigned int area_count;
static struct range *kept, *later;
static unsigned int kept_count, later_count;

static void *place(uint64_t address)
{
	return (void *)(uintptr_t)(address ^ ADDRESS_BIT);
}

static struct area *area_at(uint64_t address)
{
	static unsigned int last;

	if (last < area_count && areas[last].start <= address && address < areas[last].end)
		return &areas[last];
	for (unsigned int i = 0; i < area_count; i++) {
		if (areas[i].start <= address && address < areas[i].end) {
			last = i;
			return &areas[i];
		}
	}
	return NULL;
}

/* Makes what is not there yet of a mapping. */
static bool make_area(uint64_t start, uint64_t end)
{
	for (uint64_t at = start; at < end;) {
		const struct area *there = area_at(at);
		uint64_t stop = end;
		void *made;

		if (there) {
			at = there->end;
			continue;
		}
		for (unsigned int i = 0; i < area_count; i++)
			if (areas[i].start > at && areas[i].start < stop)
				stop = areas[i].start;
		if (area_count == MAX_AREAS)
			return false;
		made = (void *)syscall(SYS_mmap, place(at), stop - at, PROT_READ | PROT_WRITE,
				       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0ul);
		if (made != place(at))
			return false;
		areas[area_count].come = calloc((stop - at) / PAGE / 8 + 1, 1);
		if (!areas[area_count].come)
			return false;
		areas[area_count].start = at;
		areas[area_count].end = stop;
		area_count++;
		at = stop;
	}
	return true;
}

/* Whether there is room for these pages: those that have come before need none. */
static bool admit(uint64_t start, uint64_t end)
{
	for (uint64_t at = start; at < end; at += PAGE) {
		struct area *area = area_at(at);
		uint64_t page;

		if (!area)
			return false;
		page = (at - area->start) / PAGE;
		if (area->come[page / 8] & (1 << page % 8))
			continue;
		if (room == 0)
			return false;
		room--;
		area->come[page / 8] |= 1 << page % 8;
	}
	return true;
}

/* Whether nothing has come there yet. */
static bool untouched(uint64_t start, uint64_t end)
{
	for (uint64_t at = start; at < end; at += PAGE) {
		const struct area *area = area_at(at);
		const uint64_t page = area ? (at - area->start) / PAGE : 0;

		if (!area || area->come[page / 8] & (1 << page % 8))
			return false;
	}
	return true;
}

static bool forget(uint64_t start, uint64_t end)
{
	for (uint64_t at = start; at < end;) {
		const struct area *area = area_at(at);
		uint64_t stop;

		if (!area)
			return false;
		stop = area->end < end ? area->end : end;
		if (madvise(place(at), stop - at, MADV_DONTNEED) != 0)
			return false;
		at = stop;
	}
	return true;
}

/* Only what is kept stays: the process may have given the rest back meanwhile, and must find zeros there. */
static bool forget_others(void)
{
	unsigned int next = 0;

	for (unsigned int i = 0; i < mapping_count; i++) {
		uint64_t at = mappings[i].start;

		for (; next < kept_count && kept[next].start < mappings[i].end; next++) {
			if (kept[next].start < at || kept[next].end > mappings[i].end)
				return false;
			if (at < kept[next].start && !forget(at, kept[next].start))
				return false;
			at = kept[next].end;
		}
		if (at < mappings[i].end && !forget(at, mappings[i].end))
			return false;
	}
	return next == kept_count;
}

static bool append(struct range **list, unsigned int *count, uint64_t start, uint64_t end)
{
	if ((!*list && !(*list = malloc(MAX_KEPT * sizeof **list))) || *count == MAX_KEPT || (*count > 0 && (*list)[*count - 1].end > start))
		return false;
	(*list)[*count].start = start;
	(*list)[(*count)++].end = end;
	return true;
}

static bool take_record(int fd, const struct record *record)
{
	const uint64_t start = be64toh(record->start), bytes = be64toh(record->bytes), end = start + bytes;
	const uint32_t kind = be32toh(record->kind);

	if (kind == LIFE)
		return true;
	if (start % PAGE || bytes % PAGE || bytes == 0 || bytes > ADDRESS_END || start > ADDRESS_END - bytes)
		return false;
	switch (kind) {
	case AREA:
		return make_area(start, end);
	case PAGES:
		if (!admit(start, end))
			return false;
		await_room(place(start), bytes);
		return read_all(fd, place(start), bytes) == 1;
	case DENSE:
		if (untouched(start, end)) {
			if (!admit(start, end))
				return false;
			for (uint64_t at = start, next; at < end; at = next) { /* an area at a time: they may lie apart */
				next = area_at(at)->end < end ? area_at(at)->end : end;
				ask_room(place(at), next - at);
			}
		}
		return true;
	case ZERO:
		await_room(place(start), bytes);
		return forget(start, end);
	case MAPPING:
		if (mapping_count == MAX_MAPPINGS || kept_count > 0 || later_count > 0)
			return false;
		if (mapping_count > 0 && mappings[mapping_count - 1].end > start)
			return false;
		mappings[mapping_count].start = start;
		mappings[mapping_count++].end = end;
		return make_area(start, end);
	case KEEP:
		return append(&kept, &kept_count, start, end);
	case LATER:
		return append(&later, &later_count, start, end);
	}
	return false;
}

bool take_memory(uint64_t pages)
{
	int fd = open_beside("memory", O_RDONLY);
	struct record record;
	bool first = true, good = true;

	room = pages;
	if (fd < 0)
		return errno == ENOENT;
	for (;; first = false) {
		const int got = read_all(fd, &record, sizeof record);

		if (got == 0 && first)
			break; /* there is none: CRIU carries all */
		good = got == 1;
		if (good && be32toh(record.kind) == END) {
			end_room();
			memory_came = true;
			taker = getpid();
			good = forget_others();
			break;
		}
		if (!good || !take_record(fd, &record))
			good = false;
		if (!good)
			break;
	}
	end_room();
	close(fd);
	return good;
}

void know_places(void)
{
	if (memory_came)
		know_premap(mappings, mapping_count);
}

static void advise_large(int advice)
{
	const int error = errno;

	for (unsigned int i = 0; getpid() == taker && i < area_count; i++)
		if (areas[i].end - areas[i].start >= LARGE_AREA)
			madvise(place(areas[i].start), areas[i].end - areas[i].start, advice);
	errno = error;
}

/*
 * What CRIU forks to help itself needs nothing of what has come, and is not given page tables for it. Tasks it makes by clone3, which
 * does not come here (fork_with_pid, criu/cr-restore.c).
 */
EXPORT pid_t fork(void)
{
	pid_t (*next)(void) = (pid_t(*)(void))dlsym(RTLD_NEXT, "fork");
	pid_t child;

	advise_large(MADV_DONTFORK);
	child = next();
	if (child != 0)
		advise_large(MADV_DOFORK);
	return child;
}

/*
 * What came in several pieces may be several mappings to the kernel. They are not moved: up to 6.16 mremap refuses (EFAULT), and
 * since 6.17 it moves them, but several they stay, and what is several cannot be moved by the process any more while its writes
 * are tracked. Kernels that cannot be asked (ENOTTY, before 6.11) refuse.
 */
static bool is_one(const struct range *mapping)
{
	struct procmap_query query = { .size = sizeof query, .address = (uintptr_t)place(mapping->start) };
	const int maps = syscall(SYS_openat, AT_FDCWD, "/proc/self/maps", O_RDONLY | O_CLOEXEC);
	const int outcome = maps < 0 ? -1 : syscall(SYS_ioctl, maps, PROCMAP_QUERY, &query), error = errno;

	if (maps >= 0)
		close(maps);
	return outcome == 0 ? query.end - query.address >= mapping->end - mapping->start : maps >= 0 && error == ENOTTY;
}

static void copy_kept(const struct range *mapping, char *to)
{
	for (unsigned int i = 0; i < kept_count; i++)
		if (kept[i].start >= mapping->start && kept[i].end <= mapping->end)
			memcpy(to + (kept[i].start - mapping->start), place(kept[i].start),
			       kept[i].end - kept[i].start);
}

static bool move_mapping(const struct range *mapping, void *to)
{
	const size_t length = mapping->end - mapping->start;
	const struct premap *made = premap_at((uintptr_t)to);
	void *moved;

	if (!made || made->length - ((uintptr_t)to - made->address) != length)
		return false;
	if (made->flags & MAP_GROWSDOWN) { /* what is moved there could not grow any more */
		copy_kept(mapping, to);
		return true;
	}
	errno = EFAULT;
	moved = is_one(mapping) ? mremap(place(mapping->start), length, length, MREMAP_MAYMOVE | MREMAP_FIXED, to) : MAP_FAILED;
	if (moved == MAP_FAILED) {
		/* mremap may have unmapped what was there */
		if (errno != EFAULT || (void *)syscall(SYS_mmap, to, length, made->prot | PROT_WRITE, made->flags, -1, 0ul) != to)
			return false;
		copy_kept(mapping, to);
		return true;
	}
	if (made->prot != (PROT_READ | PROT_WRITE) && mprotect(to, length, made->prot) != 0)
		return false;
	return !(made->flags & MAP_LOCKED) || mlock(to, length) == 0;
}

static bool is_parents_pages(int fd)
{
	static const char name[] = "/parent/pages-1.img";
	char link[64], target[4096];
	ssize_t length;

	snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
	length = readlink(link, target, sizeof target);
	return length >= (ssize_t)sizeof name - 1 &&
	       memcmp(target + length - (sizeof name - 1), name, sizeof name - 1) == 0;
}

static bool put_mapping(unsigned int which, void *to)
{
	if (!move_mapping(&mappings[which], to))
		return false;
	return later_count == 0 || (announce_mapping(&mappings[which], to, later, later_count) &&
				    (which + 1 < mapping_count || leave_to_pager(later, later_count)));
}

/* The parent's images name the first page of each mapping, in their order, and nothing else. */
EXPORT ssize_t preadv64(int fd, const struct iovec *pieces, int count, off_t offset)
{
	ssize_t done = 0;

	if (!memory_came || !is_parents_pages(fd))
		return syscall(SYS_preadv, fd, pieces, (long)count, offset, 0l);
	for (int i = 0; i < count; i++) {
		for (size_t at = 0; at < pieces[i].iov_len; at += PAGE, done += PAGE) {
			const uint64_t which = (offset + done) / PAGE;

			if (which >= mapping_count || !put_mapping(which, (char *)pieces[i].iov_base + at)) {
				errno = EIO;
				return -1;
			}
		}
	}
	return done;
}

EXPORT ssize_t preadv(int fd, const struct iovec *pieces, int count, off_t offset) __attribute__((alias("preadv64")));
