// SPDX-License-Identifier: Apache-2.0
/*
 * CRIU asks of each descriptor in an epoll set whether it is still the file that was put there (kcmp(2), KCMP_EPOLL_TFD). To answer,
 * the kernel walks through the set from its begin to that descriptor (ep_find_tfd, fs/eventpoll.c): with 10,000 connections in it that
 * is 5,000 steps for each. Here a set is read once, as the kernel lists it (proc_pid_fdinfo(5)), and of a socket the answer is
 * known: it has one open file in all its life, so one inode is one file. Whatever is not so simple the kernel is asked.
 */
#undef _FILE_OFFSET_BITS
#define _GNU_SOURCE
#include "criu-hooks.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define EPOLL_TFD 7 /* KCMP_EPOLL_TFD, linux/kcmp.h */
#define KERNEL_MINOR_BITS 20 /* MINORBITS, linux/kdev_t.h */

/* linux/kcmp.h */
struct slot {
	uint32_t efd, tfd, toff;
};

struct member {
	int fd;
	unsigned int device;
	unsigned long inode;
};

/* The set that was asked for last, by descriptor; the tasks stand still, so it stays as it is. */
static struct {
	long pid;
	uint32_t efd;
	struct member *members;
	size_t count;
	int fds; /* of /proc/<pid>/fd */
} set = {.pid = -1, .fds = -1};

long (*libc_syscall(void))(long number, ...)
{
	static long (*next)(long number, ...);

	if (!next)
		next = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
	return next;
}

static int by_fd(const void *one, const void *other)
{
	const struct member *a = one, *b = other;

	return (a->fd > b->fd) - (a->fd < b->fd);
}

static void forget(void)
{
	if (set.fds >= 0)
		close(set.fds);
	free(set.members);
	set.pid = -1;
	set.fds = -1;
	set.members = NULL;
	set.count = 0;
}

static void read_set(long pid, uint32_t efd)
{
	char path[64], *line = NULL;
	size_t room = 0, length = 0;
	FILE *info;

	forget();
	snprintf(path, sizeof path, "/proc/%ld/fdinfo/%u", pid, efd);
	info = fopen(path, "re");
	if (!info)
		return;
	while (getline(&line, &length, info) > 0) {
		struct member member;

		if (sscanf(line, "tfd: %d events: %*x data: %*x pos:%*i ino:%lx sdev:%x", &member.fd, &member.inode, &member.device) != 3)
			continue;
		if (set.count == room) {
			struct member *more = realloc(set.members, (room = room ? 2 * room : 256) * sizeof *more);

			if (!more) {
				set.count = 0;
				break;
			}
			set.members = more;
		}
		set.members[set.count++] = member;
	}
	free(line);
	fclose(info);
	qsort(set.members, set.count, sizeof *set.members, by_fd);
	snprintf(path, sizeof path, "/proc/%ld/fd", pid);
	set.fds = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	set.pid = pid;
	set.efd = efd;
}

/* The only one that the set has of that descriptor. */
static const struct member *member_of(uint32_t fd)
{
	const struct member key = {.fd = fd};
	const struct member *found = set.count == 0 ? NULL : bsearch(&key, set.members, set.count, sizeof key, by_fd);

	if (!found || (found > set.members && found[-1].fd == found->fd))
		return NULL;
	return found + 1 < set.members + set.count && found[1].fd == found->fd ? NULL : found;
}

/* Whether the process has that very socket under that number. Not through O_PATH: then neither may be done (proc_pid_fd(5)). */
static bool is_same_socket(const struct member *member)
{
	char name[16];
	struct stat link, file;

	snprintf(name, sizeof name, "%d", member->fd);
	return fstatat(set.fds, name, &link, AT_SYMLINK_NOFOLLOW) == 0 && (link.st_mode & (S_IRUSR | S_IWUSR)) != 0 &&
	       fstatat(set.fds, name, &file, 0) == 0 && S_ISSOCK(file.st_mode) && file.st_ino == member->inode &&
	       major(file.st_dev) == member->device >> KERNEL_MINOR_BITS &&
	       minor(file.st_dev) == (member->device & ((1u << KERNEL_MINOR_BITS) - 1));
}

static bool is_in_set(long pid, uint32_t fd, const struct slot *slot)
{
	const struct member *member;

	if (slot->toff != 0 || slot->tfd != fd)
		return false;
	if (set.pid != pid || set.efd != slot->efd)
		read_set(pid, slot->efd);
	member = member_of(fd);
	return member && is_same_socket(member);
}

EXPORT long syscall(long number, ...)
{
	long words[6];
	va_list rest;

	va_start(rest, number);
	for (int i = 0; i < 6; i++)
		words[i] = va_arg(rest, long);
	va_end(rest);
	if (number == SYS_kcmp && (int)words[2] == EPOLL_TFD && (pid_t)words[0] == (pid_t)words[1] &&
	    is_in_set((pid_t)words[0], words[3], (const struct slot *)words[4]))
		return 0;
	return libc_syscall()(number, words[0], words[1], words[2], words[3], words[4], words[5]);
}
