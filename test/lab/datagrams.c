/* SPDX-License-Identifier: Apache-2.0 */
/*
 * datagrams <address> <port> [<peer address> <peer port>]: a server over UDP, connected to its one peer if that is given. To each
 * datagram "<number>" it answers "<number> <count>", where the count is of the datagrams that came from that port: who
 * numbers them from 1 sees whether one was lost, repeated or overtaken on its way here.
 */
#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

enum { PORTS = 65536, RECEIVE_BYTES = 4 << 20 };

static struct addrinfo *resolved(const char *address, const char *port)
{
	struct addrinfo hints = { .ai_flags = AI_NUMERICHOST | AI_PASSIVE, .ai_socktype = SOCK_DGRAM }, *found;

	if (getaddrinfo(address, port, &hints, &found))
		exit(1);
	return found;
}

int main(int argc, char **argv)
{
	static unsigned long counts[PORTS];
	/* room for what comes at once when a long freeze is over: the default holds about 160 datagrams */
	int room = RECEIVE_BYTES;

	if (argc != 3 && argc != 5)
		return 1;
	struct addrinfo *own = resolved(argv[1], argv[2]);
	int fd = socket(own->ai_family, SOCK_DGRAM, 0);

	setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof(room));
	if (fd < 0 || bind(fd, own->ai_addr, own->ai_addrlen))
		return 2;
	if (argc == 5) {
		struct addrinfo *peer = resolved(argv[3], argv[4]);

		if (connect(fd, peer->ai_addr, peer->ai_addrlen))
			return 3;
	}
	for (;;) {
		struct sockaddr_in6 from;
		socklen_t length = sizeof(from);
		char text[64];
		ssize_t got = recvfrom(fd, text, sizeof(text) - 32, 0, (struct sockaddr *)&from, &length);

		if (got <= 0)
			continue;
		/* the port has the same place in both families' structures */
		got += snprintf(text + got, 32, " %lu", ++counts[ntohs(from.sin6_port)]);
		if (argc == 5)
			send(fd, text, got, 0);
		else
			sendto(fd, text, got, 0, (struct sockaddr *)&from, length);
	}
}
