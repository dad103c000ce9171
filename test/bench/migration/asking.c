// SPDX-License-Identifier: Apache-2.0
/*
 * asking <address> <port> <connections>: connects to a `ballast` so many times and prints "connected". On the first connection it
 * asks all the time, a millisecond after each answer, and prints "work <ms since the epoch> <work done there>" every 10 ms or so,
 * where some is done. Words on its standard input:
 *
 *   mark     forgets how long answers have taken so far; prints "marked 0"
 *   longest  prints "longest <ms>": the longest that an answer has taken since then, one that is still awaited included
 *   all      asks once on every other connection and prints "all <answers that were right>"
 */
#define _GNU_SOURCE
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MESSAGE = 16, EVERY_MS = 1, REPORT_MS = 10, WORD = 64, PATIENCE_S = 20 };

static int *connections, count;
static uint64_t asked, units;
static double longest;

static double now_ms(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return now.tv_sec * 1e3 + now.tv_nsec / 1e6;
}

static int connect_to(struct addrinfo *server)
{
	const int fd = socket(server->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
	const struct timeval patience = { .tv_sec = PATIENCE_S };

	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	if (fd < 0 || connect(fd, server->ai_addr, server->ai_addrlen)) {
		perror("connect");
		exit(1);
	}
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
	return fd;
}

static void ask(int fd)
{
	const uint64_t message[2] = { ++asked, 0 };

	if (send(fd, message, MESSAGE, MSG_NOSIGNAL) != MESSAGE) {
		perror("send");
		exit(1);
	}
}

static int hear(int fd, uint64_t wanted)
{
	uint64_t message[2];

	if (recv(fd, message, MESSAGE, MSG_WAITALL) != MESSAGE || message[0] != wanted)
		return 0;
	units = message[1];
	return 1;
}

static void ask_all(void)
{
	const uint64_t first = asked + 1;
	int right = 0;

	for (int i = 1; i < count; i++)
		ask(connections[i]);
	for (int i = 1; i < count; i++)
		right += hear(connections[i], first + i - 1);
	printf("all %d\n", right);
}

static void obey(double since)
{
	char word[WORD];
	const double took = now_ms(CLOCK_MONOTONIC) - since;

	if (!fgets(word, sizeof word, stdin))
		exit(0);
	if (strcmp(word, "mark\n") == 0) {
		longest = 0;
		printf("marked 0\n");
	} else if (strcmp(word, "longest\n") == 0) {
		printf("longest %.3f\n", took > longest ? took : longest);
	} else {
		ask_all();
	}
}

int main(int argc, char **argv)
{
	struct addrinfo hints = { .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV, .ai_socktype = SOCK_STREAM }, *server;
	struct pollfd ends[2] = { { .fd = STDIN_FILENO, .events = POLLIN }, { .events = POLLIN } };
	struct rlimit files;
	double reported = 0;

	if (argc != 4 || getaddrinfo(argv[1], argv[2], &hints, &server))
		return 2;
	setvbuf(stdin, NULL, _IONBF, 0); /* what poll(2) does not see is not there */
	setvbuf(stdout, NULL, _IOLBF, 0);
	getrlimit(RLIMIT_NOFILE, &files);
	files.rlim_cur = files.rlim_max;
	setrlimit(RLIMIT_NOFILE, &files);
	count = atoi(argv[3]);
	connections = calloc(count, sizeof *connections);
	for (int i = 0; i < count; i++)
		connections[i] = connect_to(server);
	printf("connected\n");
	ends[1].fd = connections[0];
	for (;;) {
		const double began = now_ms(CLOCK_MONOTONIC);
		const uint64_t wanted = asked + 1;

		ask(ends[1].fd);
		do {
			poll(ends, 2, -1);
			if (ends[0].revents && !ends[1].revents)
				obey(began);
		} while (!ends[1].revents);
		if (!hear(ends[1].fd, wanted))
			return 1;
		if (now_ms(CLOCK_MONOTONIC) - began > longest)
			longest = now_ms(CLOCK_MONOTONIC) - began;
		if (units > 0 && now_ms(CLOCK_REALTIME) - reported > REPORT_MS) {
			reported = now_ms(CLOCK_REALTIME);
			printf("work %.3f %lu\n", reported, units);
		}
		if (poll(ends, 1, EVERY_MS) > 0)
			obey(now_ms(CLOCK_MONOTONIC));
	}
}
