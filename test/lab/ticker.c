/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ticker <port>: wakes up every millisecond and remembers the longest time between two awakenings that it did not spend
 * waiting for a processor. To each line that a client sends on the port it answers "<awakenings> <that time since the last
 * answer, in microseconds> <interruptions since then>": a process that tells by its own clock whether it was ever stopped, on a
 * busy machine too. A second thread waits in epoll_wait(), which fails with EINTR after every stop, be it for a tracer, a frozen
 * cgroup or a signal, and however short (signal(7)).
 */
#include <arpa/inet.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MAX_CLIENTS = 64 };

static long long now_us(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000ll + t.tv_nsec / 1000;
}

/* How long this process has been ready to run without running (proc(5), schedstat; counted until it last got a processor). */
static long long waited_us(void)
{
	long long ran, waited = 0;
	FILE *file = fopen("/proc/self/schedstat", "r");

	if (!file)
		return 0;
	if (fscanf(file, "%lld %lld", &ran, &waited) != 2)
		waited = 0;
	fclose(file);
	return waited / 1000;
}

static atomic_int interruptions;

static void *notice(void *unused)
{
	struct epoll_event event;
	int nothing = epoll_create1(0);

	(void)unused;
	for (;;)
		if (epoll_wait(nothing, &event, 1, -1) < 0)
			interruptions++;
}

int main(int argc, char **argv)
{
	struct pollfd fds[MAX_CLIENTS + 1];
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(argc > 1 ? atoi(argv[1]) : 0) };
	int count = 1, one = 1;
	pthread_t second;

	fds[0].fd = socket(AF_INET, SOCK_STREAM, 0);
	fds[0].events = POLLIN;
	setsockopt(fds[0].fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(fds[0].fd, (struct sockaddr *)&address, sizeof(address)) || listen(fds[0].fd, 16))
		return 1;
	if (pthread_create(&second, NULL, notice, NULL))
		return 1;
	long long last = now_us(), waited = waited_us(), longest = 0, awakenings = 0;
	for (;;) {
		poll(fds, count, 1);
		long long now = now_us(), waited_now = waited_us();
		long long stood = now - last - (waited_now - waited);
		if (stood > longest)
			longest = stood;
		last = now;
		waited = waited_now;
		awakenings++;
		if ((fds[0].revents & POLLIN) && count <= MAX_CLIENTS) {
			fds[count].fd = accept(fds[0].fd, NULL, NULL);
			fds[count].events = POLLIN;
			fds[count].revents = 0;
			if (fds[count].fd >= 0)
				count++;
		}
		for (int i = 1; i < count; i++) {
			char text[256];
			ssize_t got;

			if (!fds[i].revents)
				continue;
			got = read(fds[i].fd, text, sizeof(text));
			if (got <= 0) {
				close(fds[i].fd);
				fds[i--] = fds[--count];
				continue;
			}
			got = snprintf(text, sizeof(text), "%lld %lld %d\n", awakenings, longest,
				       atomic_exchange(&interruptions, 0));
			if (write(fds[i].fd, text, got) != got)
				return 2;
			longest = 0;
		}
	}
}
