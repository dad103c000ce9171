/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Mappings of every kind, with contents that are known: what else a process may have besides a large heap. They are written,
 * moved, cut and protected all the time by `change_kinds`, and `first_wrong_kind` looks at every byte.
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { KIND_PAGE = 4096, KIND_WORDS = KIND_PAGE / 8, HUGE_BYTES = 2 << 20, TREMBLE = 64 };

/* Nothing else is mapped in its neighbourhood. */
#define FAR_AWAY (1ul << 40)

/* One mapping, or several in a row: each page has a version of its own. */
struct kind {
	const char *name;
	uint64_t *at;
	unsigned long pages;
	unsigned int *versions;
	int own_content; /* its first content is a file's: only what was written is looked at */
};

enum { SHARED, MEMFD, COPIED_FILE, DOWN, HUGE, GUARDED, HOLED, WANDERING, ON_STACK, KINDS };

static struct kind kinds[KINDS];
static unsigned int kind_turn;

static void write_kind(struct kind *kind, unsigned long page)
{
	const uint64_t version = ++kind->versions[page];

	for (unsigned long i = 0; i < KIND_WORDS; i++)
		kind->at[page * KIND_WORDS + i] = (version << 32 | page << 9 | i) * 0x9e3779b97f4a7c15ull;
}

static int right(const struct kind *kind, unsigned long page)
{
	const uint64_t version = kind->versions[page];

	for (unsigned long i = 0; i < KIND_WORDS; i++) {
		const uint64_t found = kind->at[page * KIND_WORDS + i];

		if (version == 0 ? !kind->own_content && found != 0 :
				   found != (version << 32 | page << 9 | i) * 0x9e3779b97f4a7c15ull)
			return 0;
	}
	return 1;
}

/* What stands at the beginning of a page, as `write_kind` writes it: its version there, and the page that it was written for. */
static void describe_wrong(const struct kind *kind, unsigned long first, unsigned long count, char *words, unsigned long room)
{
	const uint64_t inverse = 0xf1de83e19937733dull, holds = kind->at[first * KIND_WORDS] * inverse;

	snprintf(words, room, "%s: %lu pages, the first is %lu of version %u, and holds %lu of version %lu", kind->name, count, first,
		 kind->versions[first], (unsigned long)(holds >> 9 & 0x7fffff), (unsigned long)(holds >> 32));
}

static void *map_or_die(void *at, unsigned long bytes, int flags, int fd)
{
	void *made = mmap(at, bytes, PROT_READ | PROT_WRITE, flags, fd, 0);

	if (made == MAP_FAILED)
		exit(3);
	return made;
}

static void make_kind(int which, const char *name, void *at, unsigned long bytes)
{
	struct kind *kind = &kinds[which];

	kind->name = name;
	kind->at = at;
	kind->pages = bytes / KIND_PAGE;
	kind->versions = calloc(kind->pages, sizeof(*kind->versions));
	for (unsigned long page = 0; page < kind->pages; page += 2)
		write_kind(kind, page);
}

/* @param stack page-aligned, of the main thread's */
static void make_kinds(const char *program, void *stack, unsigned long stack_bytes)
{
	const int anonymous = MAP_PRIVATE | MAP_ANONYMOUS, memfd = memfd_create("kinds", 0);
	const int file = open(program, O_RDONLY | O_CLOEXEC);
	char *area;

	if (memfd < 0 || ftruncate(memfd, 1 << 20) || file < 0)
		exit(3);
	make_kind(SHARED, "shared", map_or_die(NULL, 2 << 20, MAP_SHARED | MAP_ANONYMOUS, -1), 2 << 20);
	make_kind(MEMFD, "memfd", map_or_die(NULL, 1 << 20, MAP_SHARED, memfd), 1 << 20);
	kinds[COPIED_FILE].own_content = 1;
	make_kind(COPIED_FILE, "file", map_or_die(NULL, 3 * KIND_PAGE, MAP_PRIVATE, file), 3 * KIND_PAGE);
	close(file);
	area = map_or_die((void *)FAR_AWAY, 2 << 20, anonymous | MAP_GROWSDOWN | MAP_FIXED_NOREPLACE, -1);
	make_kind(DOWN, "down", area, 2 << 20);
	area = map_or_die(NULL, 3 * HUGE_BYTES, anonymous, -1);
	area = (char *)(((uintptr_t)area + HUGE_BYTES - 1) & -(uintptr_t)HUGE_BYTES);
	madvise(area, 2 * HUGE_BYTES, MADV_HUGEPAGE);
	make_kind(HUGE, "huge", area, 2 * HUGE_BYTES);
	make_kind(GUARDED, "guarded", map_or_die(NULL, 8 << 20, anonymous, -1), 8 << 20);
	make_kind(HOLED, "holed", map_or_die(NULL, 6 << 20, anonymous, -1), 6 << 20);
	make_kind(WANDERING, "wandering", map_or_die(NULL, 3 << 20, anonymous, -1), 3 << 20);
	make_kind(ON_STACK, "stack", stack, stack_bytes);
}

/* Splits a mapping by what may be done with its parts, or makes it one again. */
static void protect(struct kind *kind, int apart)
{
	static const int modes[] = { PROT_READ, PROT_NONE, PROT_READ | PROT_WRITE, PROT_READ | PROT_EXEC };
	const unsigned long part = kind->pages / 4 * KIND_PAGE;

	for (int i = 0; i < 4; i++)
		mprotect((char *)kind->at + i * part, part, apart ? modes[i] : PROT_READ | PROT_WRITE);
}

/* Takes two megabytes out of the middle, or puts new ones there, in which there is nothing. */
static void make_hole(struct kind *kind, int hole)
{
	char *middle = (char *)kind->at + (2 << 20);

	if (hole) {
		munmap(middle, 2 << 20);
		return;
	}
	map_or_die(middle, 2 << 20, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1);
	for (unsigned long page = 512; page < 1024; page++)
		kind->versions[page] = 0;
}

static int hole_now(void)
{
	return kind_turn / TREMBLE % 2 == 1;
}

/* -> how many pages are wrong. @param first is set to the first of them */
static unsigned long wrong_in(const struct kind *kind, unsigned long *first)
{
	unsigned long count = 0;

	for (unsigned long page = 0; page < kind->pages; page++) {
		if (kind == &kinds[HOLED] && hole_now() && page >= 512 && page < 1024)
			continue;
		if (!right(kind, page) && count++ == 0)
			*first = page;
	}
	return count;
}

/* Grows the stack by this much, and looks whether it holds what is written there. */
static int deep(int levels)
{
	volatile uint64_t own[KIND_WORDS];

	for (int i = 0; i < KIND_WORDS; i++)
		own[i] = levels * 1000 + i;
	if (levels > 0 && !deep(levels - 1))
		return 0;
	for (int i = 0; i < KIND_WORDS; i++)
		if (own[i] != (uint64_t)levels * 1000 + i)
			return 0;
	return 1;
}

/* Touches the page below what grows downwards: the kernel makes it, or ends the process. */
static int grows(void)
{
	static char *start = (char *)FAR_AWAY;

	start -= KIND_PAGE;
	*(volatile char *)start = 1;
	return 1;
}

/* -> which kind is not as it should be, in words, or NULL */
static const char *first_wrong_kind(void)
{
	static char words[160];
	unsigned long count = 0, first = 0;

	protect(&kinds[GUARDED], 0);
	for (int i = 0; i < KINDS && count == 0; i++) {
		count = wrong_in(&kinds[i], &first);
		if (count > 0)
			describe_wrong(&kinds[i], first, count, words, sizeof words);
	}
	protect(&kinds[GUARDED], 1);
	return count > 0 ? words : deep(32) && grows() ? NULL : "deep";
}

/* A child looks at some of it, and writes what is its own alone then. */
static int child_agrees(void)
{
	int status = -1;
	unsigned long first;
	const pid_t child = fork();

	if (child == 0) {
		for (int i = DOWN; i < KINDS; i++) {
			if (i == GUARDED || i == HOLED)
				continue;
			if (wrong_in(&kinds[i], &first) > 0)
				_exit(1);
			write_kind(&kinds[i], 0);
		}
		_exit(0);
	}
	while (waitpid(child, &status, 0) < 0)
		;
	return child < 0 || status == 0;
}

/* -> 0 when a child has found something wrong. @param forking it makes children */
static int change_kinds(uint64_t (*chance)(void), int forking)
{
	const int before = hole_now();

	for (int i = 0; i < KINDS; i++) {
		const unsigned long page = chance() % kinds[i].pages;

		if (i == GUARDED || (i == HOLED && before && page >= 512 && page < 1024))
			continue;
		write_kind(&kinds[i], page);
	}
	kind_turn++;
	if (hole_now() != before)
		make_hole(&kinds[HOLED], hole_now());
	if (kind_turn % TREMBLE == 8) { /* a write to what is protected, as a garbage collector does it */
		protect(&kinds[GUARDED], 0);
		write_kind(&kinds[GUARDED], chance() % kinds[GUARDED].pages);
		protect(&kinds[GUARDED], 1);
	}
	if (kind_turn % TREMBLE == 16) {
		struct kind *kind = &kinds[WANDERING];
		const unsigned long bytes = kind->pages * KIND_PAGE;
		void *to = map_or_die(NULL, bytes, MAP_PRIVATE | MAP_ANONYMOUS, -1);

		kind->at = mremap(kind->at, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, to);
	}
	return !forking || kind_turn % TREMBLE != 32 || child_agrees();
}
