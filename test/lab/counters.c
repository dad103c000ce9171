/* SPDX-License-Identifier: Apache-2.0 */
/*
 * counters <address> <port>: speaks as much of the Redis protocol as the verifying client needs, on a socket for both families when
 * the address is `::` (Redis itself opens one of each). Each connection has one counter; every INCR on it is answered with
 * the next number, PING with PONG.
 */
#include <netdb.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MAX_CLIENTS = 128, VERB_BYTES = 4 };

/* What is left to read of a request: an array of bulk strings, the verb first. */
struct client {
	unsigned long count;
	int matched; /* characters of the verb so far */
	char verb[VERB_BYTES];
	int line; /* of the request: *n, $4, verb, ... */
	int lines;
};

static int answer(int fd, struct client *client, char byte)
{
	char text[32];

	if (client->line == 0 && byte >= '0' && byte <= '9')
		client->lines = 1 + 2 * (byte - '0');
	if (client->line == 2 && client->matched < VERB_BYTES)
		client->verb[client->matched++] = byte;
	if (byte != '\n' || ++client->line < client->lines)
		return 0;
	int length = memcmp(client->verb, "INCR", VERB_BYTES) ? snprintf(text, sizeof(text), "+PONG\r\n")
							       : snprintf(text, sizeof(text), ":%lu\r\n", ++client->count);

	client->line = client->matched = 0;
	return write(fd, text, length) == length ? 0 : -1;
}

int main(int argc, char **argv)
{
	static struct client clients[MAX_CLIENTS + 1];
	struct addrinfo hints = { .ai_flags = AI_NUMERICHOST | AI_PASSIVE, .ai_socktype = SOCK_STREAM }, *own;
	struct pollfd fds[MAX_CLIENTS + 1];
	int count = 1, one = 1;

	if (argc != 3 || getaddrinfo(argv[1], argv[2], &hints, &own))
		return 1;
	fds[0].fd = socket(own->ai_family, SOCK_STREAM, 0);
	fds[0].events = POLLIN;
	setsockopt(fds[0].fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(fds[0].fd, own->ai_addr, own->ai_addrlen) || listen(fds[0].fd, MAX_CLIENTS))
		return 2;
	for (;;) {
		poll(fds, count, -1);
		if ((fds[0].revents & POLLIN) && count <= MAX_CLIENTS) {
			fds[count] = (struct pollfd){ .fd = accept(fds[0].fd, NULL, NULL), .events = POLLIN };
			clients[count] = (struct client){ 0 };
			if (fds[count].fd >= 0)
				count++;
		}
		for (int i = 1; i < count; i++) {
			char bytes[4096];
			ssize_t got;
			int failed;

			if (!fds[i].revents)
				continue;
			got = read(fds[i].fd, bytes, sizeof(bytes));
			failed = got <= 0;
			for (ssize_t at = 0; at < got && !failed; at++)
				failed = answer(fds[i].fd, &clients[i], bytes[at]);
			if (failed) {
				close(fds[i].fd);
				clients[i] = clients[--count];
				fds[i--] = fds[count];
			}
		}
	}
}
