/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dialer <address> <port>: opens connections when it is told to, and keeps numbered requests going on each of them. A line from
 * anybody who is connected to its own port is a command:
 *
 *   tcp <address> <port>   connects with a `counters` server; the answer is "open <own port>", or "errno <n>"
 *   udp <address> <port>   the same with a `datagrams` server
 *   report                 "<streams> <fewest answers of one> <faults> <that one: its ends, numbers, and last error of send(2)>": a
 *                          fault is an answer that is not the next number, or an end
 */
#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MAX_STREAMS = 60, MAX_CLIENTS = 16, EVERY_MS = 20, LINE = 256, ADDRESS = 48, PORT = 8 };

struct stream {
	unsigned long asked, answered;
	int fd, udp, error; /* what the last send(2) said */
};

struct client {
	int fd, length;
	char line[LINE];
};

static struct stream streams[MAX_STREAMS];
static int count, faults;

static void end_of(int fd, int (*name)(int, struct sockaddr *, socklen_t *), char *address, char *port)
{
	struct sockaddr_storage end;
	socklen_t length = sizeof(end);

	strcpy(address, "?");
	strcpy(port, "0");
	if (!name(fd, (struct sockaddr *)&end, &length))
		getnameinfo((struct sockaddr *)&end, length, address, ADDRESS, port, PORT, NI_NUMERICHOST | NI_NUMERICSERV);
}

static int own_port(int fd)
{
	char address[ADDRESS], port[PORT];

	end_of(fd, getsockname, address, port);
	return atoi(port);
}

static void describe(const struct stream *stream, char *text, size_t room)
{
	char own[ADDRESS], port[PORT], other[ADDRESS], other_port[PORT];

	end_of(stream->fd, getsockname, own, port);
	end_of(stream->fd, getpeername, other, other_port);
	snprintf(text, room, "%s %s %s -> %s %s, asked %lu, answered %lu, errno %d", stream->udp ? "udp" : "tcp", own, port, other,
		 other_port, stream->asked, stream->answered, stream->error);
}

static void dial(const char *kind, const char *address, const char *port, char *answer)
{
	int udp = !strcmp(kind, "udp");
	struct addrinfo hints = { .ai_flags = AI_NUMERICHOST, .ai_socktype = udp ? SOCK_DGRAM : SOCK_STREAM }, *to;
	int fd;

	snprintf(answer, LINE, "errno %d\n", EINVAL);
	if (count == MAX_STREAMS || getaddrinfo(address, port, &hints, &to))
		return;
	fd = socket(to->ai_family, to->ai_socktype, 0);
	if (connect(fd, to->ai_addr, to->ai_addrlen)) {
		snprintf(answer, LINE, "errno %d\n", errno);
		close(fd);
	} else {
		streams[count++] = (struct stream){ .fd = fd, .udp = udp };
		snprintf(answer, LINE, "open %d\n", own_port(fd));
	}
	freeaddrinfo(to);
}

static void ask(struct stream *stream)
{
	char text[32];
	int length = stream->udp ? snprintf(text, sizeof(text), "%lu", stream->asked + 1)
				 : snprintf(text, sizeof(text), "*1\r\n$4\r\nINCR\r\n");

	if (stream->fd < 0 || stream->asked > stream->answered)
		return;
	stream->asked++;
	errno = 0;
	if (send(stream->fd, text, length, MSG_NOSIGNAL) != length && !stream->udp)
		faults++;
	stream->error = errno;
}

static void hear(struct stream *stream)
{
	char text[64] = "";
	ssize_t got = recv(stream->fd, text, sizeof(text) - 1, 0);

	if (got <= 0 || strtoul(text + !stream->udp, NULL, 10) != stream->asked) {
		faults++;
		fprintf(stderr, "stream on port %d: \"%s\" after %lu, errno %d\n", own_port(stream->fd), text, stream->asked, errno);
		if (got <= 0) {
			close(stream->fd);
			stream->fd = -1;
		}
		return;
	}
	stream->answered = stream->asked;
}

static void obey(char *line, char *answer)
{
	char kind[8] = "", address[64] = "", port[8] = "";

	if (sscanf(line, "%7s %63s %7s", kind, address, port) == 3) {
		dial(kind, address, port, answer);
		return;
	}
	struct stream *slowest = streams;
	char which[LINE - 40];

	for (int i = 0; i < count; i++)
		if (streams[i].answered < slowest->answered)
			slowest = &streams[i];
	describe(slowest, which, sizeof(which));
	snprintf(answer, LINE, "%d %lu %d %s\n", count, slowest->answered, faults, which);
}

/* 0: it has gone. */
static int serve(struct client *client)
{
	char byte, answer[LINE];
	ssize_t got;

	while ((got = recv(client->fd, &byte, 1, MSG_DONTWAIT)) == 1) {
		if (byte != '\n') {
			if (client->length < LINE - 1)
				client->line[client->length++] = byte;
			continue;
		}
		client->line[client->length] = 0;
		client->length = 0;
		obey(client->line, answer);
		if (send(client->fd, answer, strlen(answer), MSG_NOSIGNAL) < 0)
			return 0;
	}
	return got < 0 && errno == EAGAIN;
}

int main(int argc, char **argv)
{
	struct addrinfo hints = { .ai_flags = AI_NUMERICHOST | AI_PASSIVE, .ai_socktype = SOCK_STREAM }, *own;
	static struct pollfd fds[1 + MAX_CLIENTS + MAX_STREAMS];
	static struct client clients[MAX_CLIENTS];
	int listener, connected = 0, one = 1;

	if (argc != 3 || getaddrinfo(argv[1], argv[2], &hints, &own))
		return 1;
	listener = socket(own->ai_family, SOCK_STREAM, 0);
	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(listener, own->ai_addr, own->ai_addrlen) || listen(listener, MAX_CLIENTS))
		return 2;
	for (;;) {
		int polled = 0, held = connected, dialled = count;

		fds[polled++] = (struct pollfd){ .fd = listener, .events = POLLIN };
		for (int i = 0; i < held; i++)
			fds[polled++] = (struct pollfd){ .fd = clients[i].fd, .events = POLLIN };
		for (int i = 0; i < dialled; i++)
			fds[polled++] = (struct pollfd){ .fd = streams[i].fd, .events = POLLIN };
		int ready = poll(fds, polled, EVERY_MS);

		for (int i = 0; i < dialled; i++)
			if (ready > 0 && fds[1 + held + i].revents)
				hear(&streams[i]);
		if (ready <= 0)
			for (int i = 0; i < count; i++)
				ask(&streams[i]);
		for (int i = held - 1; i >= 0 && ready > 0; i--) {
			if (!fds[1 + i].revents || serve(&clients[i]))
				continue;
			close(clients[i].fd);
			clients[i] = clients[--connected];
		}
		if (ready > 0 && fds[0].revents && connected < MAX_CLIENTS)
			clients[connected++] = (struct client){ .fd = accept(listener, NULL, NULL) };
	}
}
