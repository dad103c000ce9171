// SPDX-License-Identifier: Apache-2.0
/*
 * The part of criu-memory.c in a restore where not all memory is there when the process runs: makes a userfaultfd in the process,
 * still with CRIU's code in it, and gives it to the pager (pager.cc), which moves with the mappings to where CRIU puts them.
 */
#define _GNU_SOURCE
#include "criu-memory.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "memory-record.h"

static int uffd = -1, pager = -1;

/* The path of a socket is short: the folder's descriptor stands for a long one. */
static bool reach_pager(void)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	const int folder = open_beside("", O_PATH | O_DIRECTORY);

	snprintf(address.sun_path, sizeof address.sun_path, "/proc/self/fd/%d/pager.task", folder);
	pager = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	const bool good = folder >= 0 && pager >= 0 && connect(pager, (struct sockaddr *)&address, sizeof address) == 0;

	if (folder >= 0)
		close(folder);
	return good;
}

static bool say(uint64_t kind, uint64_t start, uint64_t bytes, uint64_t at, int brought)
{
	struct HandoverRecord record = {.kind = kind, .start = start, .bytes = bytes, .at = at};
	struct iovec piece = {&record, sizeof record};
	union {
		struct cmsghdr head;
		char room[CMSG_SPACE(sizeof(int))];
	} control = {.head = {.cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS}};
	struct msghdr message = {.msg_iov = &piece, .msg_iovlen = 1};

	if (brought >= 0) {
		memcpy(CMSG_DATA(&control.head), &brought, sizeof brought);
		message.msg_control = &control;
		message.msg_controllen = sizeof control;
	}
	return sendmsg(pager, &message, MSG_NOSIGNAL) == (ssize_t)sizeof record;
}

static bool begin(void)
{
	struct uffdio_api api = {.api = UFFD_API, .features = kPagerEvents};

	uffd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	return uffd >= 0 && ioctl(uffd, UFFDIO_API, &api) == 0 && reach_pager();
}

/*
 * What is there is never missing: a copy's huge pages, or what khugepaged has made of those beside it, would be zeros where pages
 * come later. Not after the registration, for then this would wait for the pager.
 */
static bool make_holes(const struct range *mapping, char *at, const struct range *later, unsigned int count)
{
	static unsigned int next; /* mappings come in their order */

	while (next < count && later[next].end <= mapping->start)
		next++;
	for (unsigned int i = next; i < count && later[i].start < mapping->end; i++) {
		const uint64_t start = later[i].start > mapping->start ? later[i].start : mapping->start;
		const uint64_t end = later[i].end < mapping->end ? later[i].end : mapping->end;

		if (madvise(at + (start - mapping->start), end - start, MADV_DONTNEED) != 0)
			return false;
	}
	return true;
}

bool announce_mapping(const struct range *mapping, void *at, const struct range *later, unsigned int count)
{
	const uint64_t length = mapping->end - mapping->start;
	struct uffdio_register asked = {.range = {(uintptr_t)at, length}, .mode = UFFDIO_REGISTER_MODE_MISSING};
	const bool first = uffd < 0;

	if (first && !begin())
		return false;
	return make_holes(mapping, at, later, count) && ioctl(uffd, UFFDIO_REGISTER, &asked) == 0 &&
	       say(kRecordMapping, mapping->start, length, (uintptr_t)at, first ? uffd : -1);
}

bool leave_to_pager(const struct range *later, unsigned int count)
{
	struct pollfd answer = {.fd = pager, .events = POLLIN};
	char byte;
	bool good = true;

	for (unsigned int i = 0; i < count && good; i++)
		good = say(kRecordLater, later[i].start, later[i].end - later[i].start, 0, -1);
	good = good && say(kRecordEnd, 0, 0, 0, -1) && poll(&answer, 1, GATE_MS) > 0 && read(pager, &byte, 1) == 1;
	close(pager);
	close(uffd);
	return good;
}
