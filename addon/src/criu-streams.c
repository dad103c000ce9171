// SPDX-License-Identifier: Apache-2.0
/*
 * All connections in one file. CRIU makes an image of its own for each, `tcp-stream-<inode>.img`: of 10,000 connections that is as
 * many files to make, to read, to send, to make again and to open, for 150 bytes each. Here what CRIU writes into them goes one after
 * the other into `tcp-streams@all`, which no image that arrives can be called, and what it reads comes from there.
 *
 * A record, integers as the machine has them; several of one connection follow one another:
 *
 *   0           4         8
 *   +-----------+---------+-------------------+
 *   | inode     | bytes   | what was written  |  at most 64 KiB
 *   +-----------+---------+-------------------+
 *
 * CRIU has one such image open at a time.
 */
#undef _FILE_OFFSET_BITS /* it would rename the functions that are defined here */
#define _GNU_SOURCE
#include "criu-hooks.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define LONGEST (64u << 10)
#define TOGETHER (256u << 10)

struct record {
	uint32_t inode, bytes;
};

static const char all[] = "tcp-streams@all";
static uint32_t open_inode;

/* In a dump: what is not in the file yet. */
static int all_fd = -1;
static char together[TOGETHER];
static size_t gathered;
static bool failed;

/* In a restore: the file, which stays where it is (what nobody has read may be gibibytes), and where in it the records are, by inodes. */
static const char *content;
static size_t content_bytes;
static struct place {
	size_t at;
	uint32_t inode;
} *places;
static size_t place_count;
static bool mapped_before;

/* Of the open image: the record that is read, and how much of it was. */
static size_t reading, reading_done;

static bool put_all(const char *from, size_t bytes)
{
	while (bytes > 0) {
		const long put = libc_syscall()(SYS_write, all_fd, from, bytes);

		if (put < 0 && errno == EINTR)
			continue;
		if (put <= 0)
			return false;
		from += put;
		bytes -= put;
	}
	return true;
}

bool streams_written(void)
{
	if (!failed && gathered > 0 && !put_all(together, gathered))
		failed = true;
	gathered = 0;
	return !failed;
}

static bool put_record(const char *from, uint32_t bytes)
{
	const struct record record = {.inode = open_inode, .bytes = bytes};

	if (gathered + sizeof record + bytes > sizeof together && !streams_written())
		return false;
	memcpy(together + gathered, &record, sizeof record);
	memcpy(together + gathered + sizeof record, from, bytes);
	gathered += sizeof record + bytes;
	return true;
}

ssize_t write_stream(const void *from, size_t bytes)
{
	for (size_t done = 0; done < bytes;) {
		const uint32_t piece = bytes - done < LONGEST ? bytes - done : LONGEST;

		if (failed || !put_record((const char *)from + done, piece)) {
			errno = ENOSPC;
			return -1;
		}
		done += piece;
	}
	return bytes;
}

static const struct record *record_at(size_t at, struct record *record)
{
	if (at > content_bytes || content_bytes - at < sizeof *record)
		return NULL;
	memcpy(record, content + at, sizeof *record);
	return record->bytes <= content_bytes - at - sizeof *record ? record : NULL;
}

static int by_inode(const void *one, const void *other)
{
	const struct place *a = one, *b = other;

	if (a->inode != b->inode)
		return a->inode < b->inode ? -1 : 1;
	return (a->at > b->at) - (a->at < b->at);
}

/* The first record of each connection; one that is cut short, and what follows it, are not there. */
static void find_places(void)
{
	size_t room = 0;
	struct record record;
	uint32_t last = 0;

	for (size_t at = 0; record_at(at, &record); at += sizeof record + record.bytes) {
		if (place_count > 0 && record.inode == last)
			continue;
		if (place_count == room) {
			struct place *more = realloc(places, (room = room ? 2 * room : 1024) * sizeof *more);

			if (!more)
				break;
			places = more;
		}
		places[place_count++] = (struct place){.at = at, .inode = last = record.inode};
	}
	qsort(places, place_count, sizeof *places, by_inode);
}

static void map_content(int dirfd)
{
	const int fd = libc_syscall()(SYS_openat, dirfd, all, O_RDONLY | O_CLOEXEC, 0);
	struct stat file;

	if (fd < 0)
		return;
	if (fstat(fd, &file) == 0 && file.st_size > 0) {
		content = (const char *)libc_syscall()(SYS_mmap, NULL, file.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
		content_bytes = content == MAP_FAILED ? 0 : file.st_size;
	}
	libc_syscall()(SYS_close, fd);
	find_places();
}

static bool find(int dirfd)
{
	const struct place *place = NULL;

	if (!mapped_before)
		map_content(dirfd);
	mapped_before = true;
	for (size_t low = 0, high = place_count; low < high;) {
		const size_t middle = low + (high - low) / 2;

		if (places[middle].inode < open_inode) {
			low = middle + 1;
		} else {
			high = middle;
			place = &places[middle];
		}
	}
	if (!place || place->inode != open_inode)
		return false;
	reading = place->at;
	reading_done = 0;
	return true;
}

ssize_t read_stream(void *into, size_t bytes)
{
	struct record record;
	size_t done = 0;

	while (done < bytes && record_at(reading, &record) && record.inode == open_inode) {
		const size_t left = record.bytes - reading_done, piece = left < bytes - done ? left : bytes - done;

		memcpy((char *)into + done, content + reading + sizeof record + reading_done, piece);
		done += piece;
		reading_done += piece;
		if (reading_done == record.bytes) {
			reading += sizeof record + record.bytes;
			reading_done = 0;
		}
	}
	return done;
}

static bool is_stream(const char *path, uint32_t *inode)
{
	static const char begin[] = "tcp-stream-";
	char *end;

	if (strncmp(path, begin, sizeof begin - 1) != 0)
		return false;
	*inode = strtoul(path + sizeof begin - 1, &end, 16);
	return end != path + sizeof begin - 1 && strcmp(end, ".img") == 0;
}

int open_stream(int dirfd, const char *path, int flags, mode_t mode)
{
	if (!is_stream(path, &open_inode))
		return NOT_OURS;
	if ((flags & O_CREAT) == 0)
		return find(dirfd) ? STREAM : NOT_OURS;
	if (all_fd < 0)
		all_fd = libc_syscall()(SYS_openat, dirfd, all, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode);
	return all_fd < 0 ? -1 : STREAM;
}
