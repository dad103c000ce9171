// SPDX-License-Identifier: Apache-2.0
/*
 * A process that knows what must be in its memory: remembering <address> <port> <megabytes> <pages written per 10 ms> [kinds|forking]
 *
 * It writes pages of a large mapping all the time, gives others back, makes and removes mappings, and lets the heap grow. It
 * answers each line on its socket with "ok <pages>" when all of it is as it should be, else with "bad <where>". `kinds`: it has
 * mappings of every other kind besides. `forking`: and children now and then.
 */
#define _GNU_SOURCE
#include "mapping-kinds.h"

#include <arpa/inet.h>
#include <poll.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE 4096ul
#define WORDS (PAGE / sizeof(uint64_t))
#define BLOCK (2ul << 20)
#define BLOCKS 8

static uint64_t *memory, *versions, pages;
static uint64_t *blocks[BLOCKS], block_versions[BLOCKS];
static uint64_t chance = 88172645463325252ull;
static int with_kinds, forking, child_wrong;

static uint64_t next(void)
{
	chance ^= chance << 13;
	chance ^= chance >> 7;
	chance ^= chance << 17;
	return chance;
}

static uint64_t word(uint64_t page, uint64_t version, uint64_t at)
{
	return version == 0 ? 0 : (page + 1) * 0x9e3779b97f4a7c15ull ^ version << 20 ^ at;
}

static void fill(uint64_t *to, uint64_t page, uint64_t version)
{
	for (uint64_t at = 0; at < WORDS; at++)
		to[at] = word(page, version, at);
}

static int holds(const uint64_t *from, uint64_t page, uint64_t version)
{
	for (uint64_t at = 0; at < WORDS; at++)
		if (from[at] != word(page, version, at))
			return 0;
	return 1;
}

static void change(void)
{
	const uint64_t page = next() % pages;

	if (next() % 16 == 0) { /* given back: it reads as zero */
		madvise(memory + page * WORDS, PAGE, MADV_DONTNEED);
		versions[page] = 0;
		return;
	}
	fill(memory + page * WORDS, page, ++versions[page]);
}

static void change_blocks(void)
{
	const uint64_t which = next() % BLOCKS;

	if (blocks[which])
		munmap(blocks[which], BLOCK);
	blocks[which] = mmap(NULL, BLOCK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	block_versions[which]++;
	for (uint64_t page = 0; page < BLOCK / PAGE; page += 3)
		fill(blocks[which] + page * WORDS, page, block_versions[which]);
}

/* Where the first wrong page is, how many there are, and how many of them are empty. */
static int verify_pages(char *answer, size_t room)
{
	uint64_t first = pages, bad = 0, empty = 0;

	for (uint64_t page = 0; page < pages; page++) {
		if (holds(memory + page * WORDS, page, versions[page]))
			continue;
		if (bad++ == 0)
			first = page;
		empty += holds(memory + page * WORDS, page, 0);
	}
	if (bad == 0)
		return 0;
	return snprintf(answer, room, "bad page %lu version %lu, of %lu bad ones %lu are empty\n", first, versions[first], bad, empty);
}

static int verify(char *answer, size_t room)
{
	const int wrong_pages = verify_pages(answer, room);

	if (wrong_pages > 0)
		return wrong_pages;
	for (uint64_t which = 0; which < BLOCKS; which++)
		for (uint64_t page = 0; blocks[which] && page < BLOCK / PAGE; page++)
			if (!holds(blocks[which] + page * WORDS, page, page % 3 == 0 ? block_versions[which] : 0))
				return snprintf(answer, room, "bad block %lu page %lu\n", which, page);
	const char *wrong = with_kinds ? first_wrong_kind() : NULL;

	if (wrong || child_wrong)
		return snprintf(answer, room, "bad %s\n", wrong ? wrong : "in a child");
	return snprintf(answer, room, "ok %lu\n", pages);
}

/* The tree has more than one thread. */
static void *sleeper(void *unused)
{
	for (;;)
		pause();
	return unused;
}

int main(int argc, char **argv)
{
	struct sockaddr_in own = {.sin_family = AF_INET};
	struct pollfd ends[2] = {{.fd = -1, .events = POLLIN}, {.fd = -1, .events = POLLIN}};
	const int one = 1;
	pthread_t thread;
	uint64_t rate;

	char stack[64 * PAGE] __attribute__((aligned(4096)));

	if (argc < 5)
		return 2;
	inet_pton(AF_INET, argv[1], &own.sin_addr);
	own.sin_port = htons(atoi(argv[2]));
	pages = strtoull(argv[3], NULL, 10) * ((1ul << 20) / PAGE);
	rate = strtoull(argv[4], NULL, 10);
	memory = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	versions = calloc(pages, sizeof *versions);
	for (uint64_t page = 0; page < pages; page++)
		if (page % 8 != 7) /* some were never touched */
			fill(memory + page * WORDS, page, ++versions[page]);
	for (int i = 0; i < 2 * BLOCKS; i++)
		change_blocks();
	with_kinds = argc > 5;
	forking = with_kinds && strcmp(argv[5], "forking") == 0;
	if (with_kinds)
		make_kinds(argv[0], memset(stack, 0, sizeof stack), sizeof stack);
	pthread_create(&thread, NULL, sleeper, NULL);
	ends[0].fd = socket(AF_INET, SOCK_STREAM, 0);
	setsockopt(ends[0].fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	if (bind(ends[0].fd, (void *)&own, sizeof own) != 0 || listen(ends[0].fd, 4) != 0)
		return 1;
	printf("ready\n");
	fflush(stdout);
	for (uint64_t turn = 0;; turn++) {
		char line[256];

		if (poll(ends, 2, 10) < 0)
			ends[0].revents = ends[1].revents = 0; /* CRIU lets it return with EINTR */
		for (uint64_t i = 0; i < rate; i++)
			change();
		if (rate > 0 && turn % 5 == 0)
			change_blocks();
		if (with_kinds && !change_kinds(next, forking))
			child_wrong = 1;
		if (ends[0].revents & POLLIN) {
			if (ends[1].fd >= 0)
				close(ends[1].fd);
			ends[1].fd = accept(ends[0].fd, NULL, NULL);
		}
		if (ends[1].revents & (POLLIN | POLLHUP)) {
			if (read(ends[1].fd, line, sizeof line) <= 0) {
				close(ends[1].fd);
				ends[1].fd = -1;
				continue;
			}
			if (write(ends[1].fd, line, verify(line, sizeof line)) < 0)
				return 1;
		}
	}
}
