// SPDX-License-Identifier: Apache-2.0
/*
 * ballast <address> <port> <MiB> <MiB per second> [work]: a server with that much memory, all of it random, of which it writes so
 * much per second, page by page through the first half of it. It answers each message of 16 bytes with its first 8 and with how
 * much work it has done, both as they stand in memory. `work`: a thread of it reads that memory, and writes a little of it, as
 * fast as it can.
 */
#define _GNU_SOURCE
#include "../../lab/listener.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

enum { PAGE = 4096, MESSAGE = 16, EVENTS = 256, EVERY_MS = 10, BACKLOG = 4096 };

static uint64_t *memory, bytes, rate, units;

static uint64_t next(uint64_t *chance)
{
	*chance ^= *chance << 13;
	*chance ^= *chance >> 7;
	*chance ^= *chance << 17;
	return *chance;
}

static uint64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000ull + now.tv_nsec / 1000000;
}

static void *write_at_pace(void *unused)
{
	uint64_t written = 0, began = now_ms(), chance = 88172645463325252ull;

	for (;; usleep(EVERY_MS * 1000)) {
		const uint64_t now = now_ms(), due = (now - began) * rate / 1000;

		if (due - written > rate / 10) /* it stood still: nothing is made up for */
			written = due;
		for (; written < due; written += PAGE)
			memory[(written % (bytes / 2)) / sizeof *memory] = next(&chance);
	}
	return unused;
}

static void *work(void *unused)
{
	uint64_t chance = 2463534242ull, sum = 0;

	for (;;) {
		for (int i = 0; i < 64; i++)
			sum += memory[next(&chance) % (bytes / sizeof *memory)];
		memory[next(&chance) % (1 << 17)] = sum; /* within 1 MiB */
		__atomic_fetch_add(&units, 1, __ATOMIC_RELAXED);
	}
	return unused;
}

static void answer(int fd)
{
	uint64_t message[2];
	const ssize_t got = recv(fd, message, MESSAGE, MSG_WAITALL);

	if (got == MESSAGE) {
		message[1] = __atomic_load_n(&units, __ATOMIC_RELAXED);
		if (send(fd, message, MESSAGE, MSG_NOSIGNAL) == MESSAGE)
			return;
	}
	close(fd);
}

int main(int argc, char **argv)
{
	struct rlimit files;
	pthread_t thread;
	uint64_t chance = 88172645463325252ull;

	if (argc < 5)
		return 2;
	bytes = strtoull(argv[3], NULL, 10) << 20;
	rate = strtoull(argv[4], NULL, 10) << 20;
	getrlimit(RLIMIT_NOFILE, &files);
	files.rlim_cur = files.rlim_max;
	setrlimit(RLIMIT_NOFILE, &files);
	memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		return 1;
	for (uint64_t i = 0; i < bytes / sizeof *memory; i++)
		memory[i] = next(&chance);

	int listener = listener_at(argv[1], atoi(argv[2]));
	int poll = epoll_create1(EPOLL_CLOEXEC);
	struct epoll_event event = { .events = EPOLLIN, .data.fd = listener };

	listen(listener, BACKLOG);
	fcntl(listener, F_SETFL, O_NONBLOCK); /* who had connected may be gone when it is accepted */
	epoll_ctl(poll, EPOLL_CTL_ADD, listener, &event);
	if (rate > 0)
		pthread_create(&thread, NULL, write_at_pace, NULL);
	if (argc > 5)
		pthread_create(&thread, NULL, work, NULL);
	for (;;) {
		struct epoll_event events[EVENTS];
		const int count = epoll_wait(poll, events, EVENTS, -1);

		for (int i = 0; i < count; i++) {
			if (events[i].data.fd != listener) {
				answer(events[i].data.fd);
				continue;
			}
			event.data.fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
			if (event.data.fd >= 0)
				epoll_ctl(poll, EPOLL_CTL_ADD, event.data.fd, &event);
		}
	}
}
