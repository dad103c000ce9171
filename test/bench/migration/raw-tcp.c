// SPDX-License-Identifier: Apache-2.0
/*
 * What a link carries: raw-tcp receive <port>            takes one connection, writes what comes to its standard output, and answers
 *                                                        with one byte when all is there
 *                      raw-tcp send <address> <port> <MiB>  sends so much; prints how long it took, to that answer, in milliseconds
 *                      raw-tcp send <address> <port> -      sends its standard input
 */
#include "../../lab/listener.h"

#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { BLOCK = 1 << 20 };

static char block[BLOCK];

static int write_all(int fd, size_t bytes)
{
	for (size_t done = 0; done < bytes;) {
		const ssize_t wrote = write(fd, block + done, bytes - done);

		if (wrote <= 0)
			return 0;
		done += wrote;
	}
	return 1;
}

static int receive(int listener)
{
	const int fd = accept(listener, NULL, NULL);
	ssize_t got;

	while ((got = read(fd, block, BLOCK)) > 0)
		if (!write_all(STDOUT_FILENO, got))
			return 1;
	return got < 0 || write(fd, "k", 1) != 1;
}

static int send_to(const char *address, const char *port, const char *what)
{
	struct addrinfo hints = { .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV, .ai_socktype = SOCK_STREAM }, *server;
	struct timespec from, to;
	ssize_t got;
	char answer;
	int fd;

	if (getaddrinfo(address, port, &hints, &server))
		return 2;
	fd = socket(server->ai_family, SOCK_STREAM, 0);
	if (fd < 0 || connect(fd, server->ai_addr, server->ai_addrlen))
		return 1;
	memset(block, 'x', BLOCK);
	clock_gettime(CLOCK_MONOTONIC, &from);
	if (strcmp(what, "-") == 0) {
		while ((got = read(STDIN_FILENO, block, BLOCK)) > 0)
			if (!write_all(fd, got))
				return 1;
	} else {
		for (long left = atol(what); left > 0; left--)
			if (!write_all(fd, BLOCK))
				return 1;
	}
	if (shutdown(fd, SHUT_WR) || read(fd, &answer, 1) != 1)
		return 1;
	clock_gettime(CLOCK_MONOTONIC, &to);
	printf("%.3f\n", (to.tv_sec - from.tv_sec) * 1e3 + (to.tv_nsec - from.tv_nsec) / 1e6);
	return 0;
}

int main(int argc, char **argv)
{
	if (argc == 3 && strcmp(argv[1], "receive") == 0)
		return receive(listener_at("0.0.0.0", atoi(argv[2])));
	if (argc == 5 && strcmp(argv[1], "send") == 0)
		return send_to(argv[2], argv[3], argv[4]);
	return 2;
}
