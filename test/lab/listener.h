/* SPDX-License-Identifier: Apache-2.0 */
#include <netdb.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <sys/socket.h>

/* A listener for both families when the address is `::`. Ends the program if there is none to be had. */
static int listener_at(const char *address, int port)
{
	struct addrinfo hints = { .ai_flags = AI_NUMERICHOST | AI_PASSIVE, .ai_socktype = SOCK_STREAM }, *own;
	int one = 1;

	if (getaddrinfo(address, NULL, &hints, &own))
		exit(1);
	/* the port has the same place in both families' structures */
	((struct sockaddr_in *)own->ai_addr)->sin_port = htons(port);
	int fd = socket(own->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);

	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(fd, own->ai_addr, own->ai_addrlen) || listen(fd, 128))
		exit(2);
	freeaddrinfo(own);
	return fd;
}
