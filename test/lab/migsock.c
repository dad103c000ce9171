/* SPDX-License-Identifier: Apache-2.0 */
/*
 * migsock <kind> <address> <port> [<folder>]: the test programs of the MIGSOCK II paper (section 5.6), whose servers send numbers
 * from 0 on, a line each, to whom connects.
 *   two        one process with two sockets: each number goes to a client of <port> and to one of <port> + 1
 *   one        one process with one socket
 *   echo       one process that sends back what it gets, to one client after the other
 *   files      two processes and, in a third one, two threads that write numbers, each into a file of its own in <folder>; whoever
 *              connects is told what each has written last
 *   processes  a process for each client, which keeps nothing but its connection
 *   threads    a thread for each client
 */
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "listener.h"

enum { PACE_US = 5000, WRITERS = 4 };

static const char *folder;
static _Atomic unsigned long *written; /* by each writer; shared by the processes */

static int send_number(int fd, unsigned long number)
{
	char line[24];
	int length = snprintf(line, sizeof(line), "%lu\n", number);

	return write(fd, line, length) == length ? 0 : -1;
}

static void *send_numbers(void *argument)
{
	int fd = (int)(long)argument;

	for (unsigned long number = 0; send_number(fd, number) == 0; number++)
		usleep(PACE_US);
	close(fd);
	return NULL;
}

static void two(const char *address, int port)
{
	int listeners[] = { listener_at(address, port), listener_at(address, port + 1) };
	int one = accept(listeners[0], NULL, NULL), other = accept(listeners[1], NULL, NULL);

	for (unsigned long number = 0; send_number(one, number) == 0 && send_number(other, number) == 0; number++)
		usleep(PACE_US);
}

static void echo(int listener)
{
	for (;;) {
		int fd = accept(listener, NULL, NULL);
		char bytes[65536];
		ssize_t got;

		while ((got = read(fd, bytes, sizeof(bytes))) > 0)
			for (ssize_t at = 0, put; at < got; at += put)
				if ((put = write(fd, bytes + at, got - at)) < 0)
					exit(3);
		close(fd);
	}
}

static void *write_file(void *argument)
{
	int writer = (int)(long)argument;
	char path[256], line[24];

	snprintf(path, sizeof(path), "%s/%d", folder, writer);
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);

	for (unsigned long number = 1;; number++) {
		int length = snprintf(line, sizeof(line), "%lu\n", number);

		if (write(fd, line, length) != length)
			exit(4);
		written[writer] = number;
		usleep(PACE_US);
	}
	return NULL;
}

static void files(int listener)
{
	pthread_t ignored;

	written = mmap(NULL, WRITERS * sizeof(*written), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	for (long writer = 0; writer < 2; writer++)
		if (fork() == 0)
			write_file((void *)writer);
	if (fork() == 0) {
		pthread_create(&ignored, NULL, write_file, (void *)2L);
		write_file((void *)3L);
	}
	for (;;) {
		int fd = accept(listener, NULL, NULL);
		char line[128];
		int length = snprintf(line, sizeof(line), "%lu %lu %lu %lu\n", written[0], written[1], written[2], written[3]);

		if (write(fd, line, length) < 0)
			exit(5);
		close(fd);
	}
}

int main(int argc, char **argv)
{
	if (argc < 4)
		return 1;
	const char *kind = argv[1];

	signal(SIGPIPE, SIG_IGN);
	signal(SIGCHLD, SIG_IGN); /* nobody waits for them */
	folder = argv[4];
	if (strcmp(kind, "two") == 0) {
		two(argv[2], atoi(argv[3]));
		return 0;
	}
	int listener = listener_at(argv[2], atoi(argv[3]));

	if (strcmp(kind, "echo") == 0)
		echo(listener);
	if (strcmp(kind, "files") == 0)
		files(listener);
	for (pthread_t ignored;;) {
		int fd = accept(listener, NULL, NULL);

		if (strcmp(kind, "one") == 0) {
			send_numbers((void *)(long)fd);
		} else if (strcmp(kind, "threads") == 0) {
			pthread_create(&ignored, NULL, send_numbers, (void *)(long)fd);
		} else if (fork() == 0) {
			close(listener);
			send_numbers((void *)(long)fd);
			exit(0);
		} else {
			close(fd);
		}
	}
}
