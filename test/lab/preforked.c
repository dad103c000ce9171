/* SPDX-License-Identifier: Apache-2.0 */
/*
 * preforked <how> <address> <port>: a parent that makes a listener and accepts nothing, and two workers that accept from it and
 * send numbers from 0 on, a line each, to whom connects; each connection has a thread of its own.
 *   accept   the workers stand in accept(2)
 *   epoll    they wait by epoll, and the listener does not block
 *   late     each accepts one connection, and the next ones only after SIGUSR1
 */
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/wait.h>
#include <unistd.h>

#include "listener.h"

enum { PACE_US = 5000, WORKERS = 2 };

static void *send_numbers(void *argument)
{
	int fd = (int)(long)argument;

	for (unsigned long number = 0;; number++) {
		char line[24];
		int length = snprintf(line, sizeof(line), "%lu\n", number);

		if (write(fd, line, length) != length)
			break;
		usleep(PACE_US);
	}
	close(fd);
	return NULL;
}

static void accept_one(int listener)
{
	int fd = accept(listener, NULL, NULL);
	pthread_t ignored;

	if (fd >= 0)
		pthread_create(&ignored, NULL, send_numbers, (void *)(long)fd);
}

static void work(const char *how, int listener)
{
	struct epoll_event event = { .events = EPOLLIN };
	int epoll = epoll_create1(0), signal;
	sigset_t awaited;

	sigemptyset(&awaited);
	sigaddset(&awaited, SIGUSR1);
	sigprocmask(SIG_BLOCK, &awaited, NULL);
	if (strcmp(how, "late") == 0) {
		accept_one(listener);
		sigwait(&awaited, &signal);
	}
	if (strcmp(how, "epoll") == 0) {
		fcntl(listener, F_SETFL, O_NONBLOCK);
		epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event);
		for (;;)
			if (epoll_wait(epoll, &event, 1, -1) == 1)
				accept_one(listener);
	}
	for (;;)
		accept_one(listener);
}

int main(int argc, char **argv)
{
	if (argc != 4)
		return 1;
	int listener = listener_at(argv[2], atoi(argv[3]));

	signal(SIGPIPE, SIG_IGN);
	for (int worker = 0; worker < WORKERS; worker++)
		if (fork() == 0)
			work(argv[1], listener);
	while (wait(NULL) > 0)
		;
	pause();
}
