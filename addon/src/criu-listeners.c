// SPDX-License-Identifier: Apache-2.0
/*
 * The listeners' side of criu-memory.c, in a restore at home. A listener that a process had together with others stayed there with
 * them, and with the queue from which all of them accept. CRIU makes a socket, binds it and listens: here the socket that was never
 * bound is replaced, at listen(2) and before anybody else is given it, by another descriptor of the one that stayed.
 *
 * The file names them, a record each, integers as the machine has them. No image that arrives can have its name.
 *
 *   0        4              8           16
 *   +--------+--------------+-----------+
 *   | pid    | descriptor   | SO_COOKIE |  whose holder is the daemon: it keeps them open until they are here
 *   +--------+--------------+-----------+
 *
 * What CRIU then sets, options, flags (one open file has them once) and the backlog, is as it was when the process left; those at
 * home may have changed it since, and theirs counts.
 */
#undef _FILE_OFFSET_BITS /* it would rename the functions that are defined here */
#define _GNU_SOURCE
#include "criu-memory.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#define MAX_LISTENERS 1024
#define MAX_WAITING 1024
#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif
#ifndef SYS_pidfd_getfd
#define SYS_pidfd_getfd 438
#endif

struct record {
	uint32_t pid, fd;
	uint64_t cookie;
};

static struct listener {
	struct record record;
	struct sockaddr_storage address;
	socklen_t length;
} listeners[MAX_LISTENERS];
static unsigned int listener_count;

/* Sockets of this task that wait for their listen(2); -1 is free. */
static struct {
	int fd;
	const struct listener *listener;
	bool unbound;
} waiting[MAX_WAITING];
static unsigned int waiting_count;

static uint64_t cookie_of(int fd)
{
	uint64_t cookie = 0;
	socklen_t size = sizeof cookie;

	return getsockopt(fd, SOL_SOCKET, SO_COOKIE, &cookie, &size) == 0 ? cookie : 0;
}

/* A descriptor of the listener here: of that one and no other, whatever has become of its holder's number. */
static int borrow(const struct record *record)
{
	const int pidfd = syscall(SYS_pidfd_open, record->pid, 0);
	int fd, error;

	if (pidfd < 0)
		return -1;
	fd = syscall(SYS_pidfd_getfd, pidfd, record->fd, 0);
	error = errno;
	close(pidfd);
	if (fd >= 0 && cookie_of(fd) != record->cookie) {
		close(fd);
		fd = -1;
		error = ESTALE;
	}
	errno = error;
	return fd;
}

bool know_listeners(void)
{
	int fd = open_beside("listeners@home", O_RDONLY), got = 0;

	if (fd < 0)
		return errno == ENOENT;
	while (listener_count < MAX_LISTENERS) {
		struct listener *listener = &listeners[listener_count];
		int held;

		got = read_all(fd, &listener->record, sizeof listener->record);
		if (got != 1)
			break;
		held = borrow(&listener->record);
		listener->length = sizeof listener->address;
		if (held < 0 || getsockname(held, (struct sockaddr *)&listener->address, &listener->length) != 0)
			got = -1;
		if (held >= 0)
			close(held);
		if (got < 0)
			break;
		listener_count++;
	}
	close(fd);
	return got == 0;
}

static bool is_same(const struct listener *listener, const struct sockaddr *address, socklen_t length)
{
	const struct sockaddr_in *four = (const void *)address, *own_four = (const void *)&listener->address;
	const struct sockaddr_in6 *six = (const void *)address, *own_six = (const void *)&listener->address;

	if (address->sa_family != listener->address.ss_family)
		return false;
	if (address->sa_family == AF_INET)
		return length >= sizeof *four && four->sin_port == own_four->sin_port &&
		       four->sin_addr.s_addr == own_four->sin_addr.s_addr;
	return address->sa_family == AF_INET6 && length >= sizeof *six && six->sin6_port == own_six->sin6_port &&
	       memcmp(&six->sin6_addr, &own_six->sin6_addr, sizeof six->sin6_addr) == 0;
}

/* A connection at the same address is in repair mode when CRIU binds it; that of UDP is no stream. */
static bool may_listen(int fd)
{
	int repair = 1, type = 0;
	socklen_t size = sizeof repair, type_size = sizeof type;

	return getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &type_size) == 0 && type == SOCK_STREAM &&
	       getsockopt(fd, IPPROTO_TCP, TCP_REPAIR, &repair, &size) == 0 && repair == 0;
}

static bool await_listen(int fd, const struct listener *listener, bool unbound)
{
	unsigned int i = 0;

	while (i < waiting_count && waiting[i].fd >= 0)
		i++;
	if (i == MAX_WAITING)
		return false;
	if (i == waiting_count)
		waiting_count++;
	waiting[i].fd = fd;
	waiting[i].listener = listener;
	waiting[i].unbound = unbound;
	return true;
}

/*
 * Beside the listener at home there is no room, unless both say SO_REUSEPORT, as CRIU does: a socket that is bound and does not
 * listen yet gets no connections.
 */
EXPORT int bind_beside(int fd, const struct sockaddr *address, socklen_t length) __asm__("bind"); /* GNU's has a union */

int bind_beside(int fd, const struct sockaddr *address, socklen_t length)
{
	const int outcome = syscall(SYS_bind, fd, address, length), error = errno;

	for (unsigned int i = 0; i < waiting_count; i++)
		if (waiting[i].fd == fd)
			waiting[i].fd = -1; /* another socket had that number */
	if (outcome == 0 || error == EADDRINUSE)
		for (unsigned int i = 0; i < listener_count; i++)
			if (is_same(&listeners[i], address, length) && may_listen(fd)) {
				if (await_listen(fd, &listeners[i], outcome != 0))
					return 0;
				break;
			}
	errno = error;
	return outcome;
}

EXPORT int listen(int fd, int backlog)
{
	for (unsigned int i = 0; i < waiting_count; i++) {
		int held, replaced;

		if (waiting[i].fd != fd)
			continue;
		held = borrow(&waiting[i].listener->record);
		if (held < 0)
			return -1;
		replaced = syscall(SYS_dup3, held, fd, 0);
		close(held);
		if (replaced < 0)
			return -1;
		waiting[i].fd = -1;
		return 0;
	}
	return syscall(SYS_listen, fd, backlog);
}

static bool is_theirs(int fd)
{
	const uint64_t cookie = listener_count > 0 ? cookie_of(fd) : 0;

	if (cookie != 0)
		for (unsigned int i = 0; i < listener_count; i++)
			if (listeners[i].record.cookie == cookie)
				return true;
	return false;
}

EXPORT int setsockopt(int fd, int level, int name, const void *value, socklen_t length)
{
	if (is_theirs(fd))
		return 0;
	return syscall(SYS_setsockopt, fd, level, name, value, length);
}

EXPORT int fcntl64(int fd, int command, ...)
{
	va_list rest;
	void *argument;

	va_start(rest, command);
	argument = va_arg(rest, void *);
	va_end(rest);
	if (command == F_SETFL || command == F_SETSIG || command == F_SETOWN || command == F_SETOWN_EX) {
		/* bound, and never to listen: there is no room for it, and CRIU must hear of it */
		for (unsigned int i = 0; i < waiting_count; i++)
			if (waiting[i].fd == fd && waiting[i].unbound) {
				errno = EADDRINUSE;
				return -1;
			}
		if (is_theirs(fd))
			return 0;
	}
	return syscall(SYS_fcntl, fd, command, argument);
}

EXPORT int fcntl(int fd, int command, ...) __attribute__((alias("fcntl64")));
