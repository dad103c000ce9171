/* SPDX-License-Identifier: Apache-2.0 */
/*
 * As much of the Redis protocol as the verifying client needs: each connection has one counter; every INCR on it is answered
 * with the next number, PING with PONG.
 */
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

/* Accepts from a listener, which others may do too if it does not block, and serves. */
static void serve(int listener)
{
	struct client clients[MAX_CLIENTS + 1] = { 0 };
	struct pollfd fds[MAX_CLIENTS + 1] = { { .fd = listener, .events = POLLIN } };
	int count = 1;

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
