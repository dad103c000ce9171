// SPDX-License-Identifier: Apache-2.0
/*
 * Where CRIU puts the mappings of a process before it has a place for them. It reserves room for all private ones and maps them there
 * one behind the other (premap_priv_vmas, criu/mem.c); its restorer moves each to its address. The kernel moves whole page tables, and
 * huge pages as they are, only between two places that lie alike in their 2 MiB (move_page_tables, mm/mremap.c); else it splits huge
 * pages and moves page after page. So the room is made to begin where most of the large memory lies as it will.
 *
 * Which mappings these are is in the image that CRIU reads as well: mm-<pid>.img, two magics, a length (u32), an mm_entry
 * (images/mm.proto). What is not found there as expected costs time, and nothing else.
 */
#undef _FILE_OFFSET_BITS /* it would rename the functions that are called here */
#define _GNU_SOURCE
#include "criu-memory.h"

#include <dirent.h>
#include <endian.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define HUGE_PAGE (1ul << 21)
#define IMAGE_HEAD 12
#define MAX_IMAGE (64ul << 20)

/* Numbers of fields in images/mm.proto and images/vma.proto. */
enum { MM_VMAS = 14, VMA_START = 1, VMA_END = 2, VMA_FLAGS = 6, VMA_STATUS = 7 };

/* criu/include/image.h */
enum {
	REGULAR = 1 << 0,
	FILE_PRIVATE = 1 << 6,
	ANON_PRIVATE = 1 << 9,
	AIO_RING = 1 << 13,
	SHADOW_STACK = 1 << 15,
	OF_PLUGIN = 1 << 27,
};

struct message {
	const uint8_t *at, *end;
};

/* What CRIU will ask room for; with a guard page below each mapping that grows downwards where the kernel hides that. */
static uint64_t size, size_guarded;
/* Where in its 2 MiB that is to begin, in either case. */
static uint64_t begin, begin_guarded;

static bool watching;
static struct premap *premaps;
static unsigned int premap_count, premap_room;

static bool read_varint(struct message *from, uint64_t *value)
{
	*value = 0;
	for (unsigned int shift = 0; from->at < from->end && shift < 64; shift += 7) {
		const uint8_t byte = *from->at++;

		*value |= (uint64_t)(byte & 0x7f) << shift;
		if (!(byte & 0x80))
			return true;
	}
	return false;
}

/* @param value of a number; the length of what `inner` has -> the field's number, or 0 at the end, or where it cannot be read */
static unsigned int next_field(struct message *from, uint64_t *value, struct message *inner)
{
	uint64_t key;

	if (!read_varint(from, &key) || ((key & 7) != 0 && (key & 7) != 2) || !read_varint(from, value))
		return 0;
	if ((key & 7) == 2) {
		if (*value > (uint64_t)(from->end - from->at))
			return 0;
		*inner = (struct message){from->at, from->at + *value};
		from->at += *value;
	}
	return key >> 3;
}

/* Bytes of large memory for each place in 2 MiB at which the room could begin. */
struct votes {
	uint64_t bytes[HUGE_PAGE / PAGE];
};

static void vote(struct votes *votes, uint64_t start, uint64_t offset, uint64_t bytes)
{
	votes->bytes[(start - offset) % HUGE_PAGE / PAGE] += bytes;
}

static uint64_t most(const struct votes *votes)
{
	unsigned int best = 0;

	for (unsigned int each = 1; each < HUGE_PAGE / PAGE; each++)
		if (votes->bytes[each] > votes->bytes[best])
			best = each;
	return best * PAGE;
}

static bool is_private(uint64_t status)
{
	return (status & REGULAR && status & (ANON_PRIVATE | FILE_PRIVATE)) || status & (SHADOW_STACK | AIO_RING);
}

static void learn(struct message mm, const struct range *mappings, unsigned int count)
{
	static struct votes plain, guarded;
	uint64_t offset = 0, guards = 0, skipped = 0, value;
	unsigned int next = 0, field;
	struct message vma, inner;

	while ((field = next_field(&mm, &value, &vma)) != 0) {
		uint64_t start = 0, end = 0, flags = 0, status = 0;

		if (field != MM_VMAS)
			continue;
		while ((field = next_field(&vma, &value, &inner)) != 0) {
			if (field == VMA_START)
				start = value;
			else if (field == VMA_END)
				end = value;
			else if (field == VMA_FLAGS)
				flags = value;
			else if (field == VMA_STATUS)
				status = value;
		}
		if (!is_private(status))
			continue;
		if (flags & MAP_HUGETLB || status & OF_PLUGIN) { /* reserved, and not mapped there */
			skipped += end - start;
			continue;
		}
		while (next < count && mappings[next].start < start)
			next++;
		if (next < count && mappings[next].start == start && end - start >= HUGE_PAGE) {
			vote(&plain, start, offset, end - start);
			vote(&guarded, start, offset + guards, end - start);
		}
		offset += end - start;
		guards += flags & MAP_GROWSDOWN ? PAGE : 0;
	}
	size = offset + skipped;
	size_guarded = size + guards;
	begin = most(&plain);
	begin_guarded = most(&guarded);
}

/* Of the tree's only process; -1: there is none, or several. */
static int open_image(void)
{
	const int folder = open_beside("", O_RDONLY | O_DIRECTORY);
	DIR *names = folder < 0 ? NULL : fdopendir(folder);
	int fd = -1;

	if (!names) {
		if (folder >= 0)
			close(folder);
		return -1;
	}
	for (const struct dirent *entry; (entry = readdir(names)) != NULL;) {
		if (strncmp(entry->d_name, "mm-", 3) != 0)
			continue;
		if (fd >= 0) {
			close(fd);
			fd = -1;
			break;
		}
		fd = syscall(SYS_openat, folder, entry->d_name, O_RDONLY | O_CLOEXEC, 0);
	}
	closedir(names);
	return fd;
}

void know_premap(const struct range *mappings, unsigned int count)
{
	const int fd = open_image();
	struct stat status;
	uint8_t *image = NULL;
	uint32_t length;

	watching = true;
	if (fd < 0)
		return;
	if (syscall(SYS_fstat, fd, &status) == 0 && status.st_size > IMAGE_HEAD && (uint64_t)status.st_size <= MAX_IMAGE)
		image = malloc(status.st_size);
	if (image && read_all(fd, image, status.st_size) == 1) {
		memcpy(&length, image + IMAGE_HEAD - sizeof length, sizeof length);
		if (le32toh(length) <= (uint64_t)status.st_size - IMAGE_HEAD)
			learn((struct message){image + IMAGE_HEAD, image + IMAGE_HEAD + le32toh(length)}, mappings, count);
	}
	free(image);
	close(fd);
}

/* Room for all that CRIU maps before it moves it, if so much is that. */
static void *reserve(size_t length)
{
	const uint64_t wanted = length == size_guarded ? begin_guarded : begin;
	uint64_t made, from;

	if (size == 0 || (length != size && length != size_guarded))
		return MAP_FAILED;
	made = syscall(SYS_mmap, NULL, length + HUGE_PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0ul);
	if ((void *)(uintptr_t)made == MAP_FAILED)
		return MAP_FAILED;
	from = made + (wanted - made) % HUGE_PAGE;
	if (from > made)
		munmap((void *)(uintptr_t)made, from - made);
	munmap((void *)(uintptr_t)(from + length), made + HUGE_PAGE - from);
	return (void *)(uintptr_t)from;
}

EXPORT void *mmap64(void *address, size_t length, int prot, int flags, int fd, off_t offset)
{
	void *made = MAP_FAILED;

	if (watching && !address && prot == PROT_NONE && flags == (MAP_PRIVATE | MAP_ANONYMOUS))
		made = reserve(length);
	if (made == MAP_FAILED)
		made = (void *)syscall(SYS_mmap, address, length, prot, flags, fd, offset);
	if (watching && made != MAP_FAILED && (flags & MAP_FIXED) && (flags & MAP_PRIVATE) && (flags & MAP_ANONYMOUS)) {
		if (premap_count == premap_room) {
			premap_room += 4096;
			premaps = realloc(premaps, premap_room * sizeof *premaps);
			if (!premaps)
				abort(); /* the restore fails, and is rolled back */
		}
		premaps[premap_count++] =
			(struct premap){.address = (uintptr_t)made, .length = length, .prot = prot, .flags = flags};
	}
	return made;
}

EXPORT void *mmap(void *address, size_t length, int prot, int flags, int fd, off_t offset)
	__attribute__((alias("mmap64")));

const struct premap *premap_at(uintptr_t to)
{
	for (unsigned int i = premap_count; i-- > 0;) {
		const bool down = premaps[i].flags & MAP_GROWSDOWN;

		/* CRIU makes room for a guard page below one that grows downwards, where it knows of it */
		if (premaps[i].address == to || (down && premaps[i].address + PAGE == to))
			return &premaps[i];
	}
	return NULL;
}
