/* SPDX-License-Identifier: Apache-2.0 */
/*
 * workers <address> <port> <processes> <threads>: a server whose workers all accept from one listener, each for itself:
 * that many processes, each with that many threads; with no processes the threads are the program's own.
 */
#define _GNU_SOURCE
#include "counting.h"
#include "listener.h"
#include <fcntl.h>
#include <pthread.h>
#include <sys/wait.h>

static int listener;

static void *thread(void *unused)
{
	(void)unused;
	serve(listener);
	return NULL;
}

static void work(int threads)
{
	pthread_t ignored;

	while (--threads > 0)
		pthread_create(&ignored, NULL, thread, NULL);
	serve(listener);
}

int main(int argc, char **argv)
{
	if (argc != 5)
		return 1;
	int processes = atoi(argv[3]), threads = atoi(argv[4]);

	listener = listener_at(argv[1], atoi(argv[2]));
	fcntl(listener, F_SETFL, O_NONBLOCK); /* who is late finds nothing to accept */
	if (processes == 0)
		work(threads);
	for (int i = 0; i < processes; i++)
		if (fork() == 0)
			work(threads);
	while (wait(NULL) > 0)
		;
}
