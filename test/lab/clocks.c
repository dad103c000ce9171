/* SPDX-License-Identifier: Apache-2.0 */
/*
 * clocks <port>: waits in every way that Linux has for a time on the clocks since boot, over and over, and watches those clocks.
 * To each line that a client sends on the port it answers with one line of JSON:
 *   monotonic, boottime, uptime: now, in seconds (uptime: of /proc/uptime)
 *   back: how often a clock was behind what it had been
 *   ahead: the largest step of the monotonic clock against that of the time of day, in seconds
 *   and for each way to wait: [how often it came to its end, the earliest end against its deadline, the latest], in seconds.
 * But to a line that begins with a t it says what two periodic timers of 20 ms have ticked, and a timer whose end is over and read,
 *   "unread <now> <at the next tick> <ticks that it leaves unread> counted <now> <next> <left> over <now> <seconds since it set them>":
 *   of the first nobody has asked, of the second its time left; both are at their end, with ticks that are unread, when it has answered.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define NS 1000000000ll

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static long long back, ahead;

static long long at(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return t.tv_sec * NS + t.tv_nsec;
}

static struct timespec spec(long long ns)
{
	return (struct timespec){ .tv_sec = ns / NS, .tv_nsec = ns % NS };
}

struct way {
	const char *name;
	/* Waits until the monotonic clock shows `deadline`, which is `ns` from now; a wait that is cut short goes on. */
	void (*wait)(long long deadline, long long ns);
	long long ns, ends, earliest, latest;
};

static void sleep_until(long long deadline, long long ns)
{
	struct timespec t = spec(deadline);

	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) == EINTR)
		;
}

static void sleep_for(long long deadline, long long ns)
{
	struct timespec left = spec(ns);

	while (nanosleep(&left, &left) && errno == EINTR)
		;
}

static void condition(long long deadline, long long ns)
{
	pthread_condattr_t attributes;
	pthread_cond_t never;
	struct timespec t = spec(deadline);

	pthread_condattr_init(&attributes);
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(&never, &attributes);
	pthread_mutex_t own = PTHREAD_MUTEX_INITIALIZER;
	pthread_mutex_lock(&own);
	while (pthread_cond_timedwait(&never, &own, &t) != ETIMEDOUT)
		;
	pthread_mutex_unlock(&own);
	pthread_cond_destroy(&never);
}

static void poll_events(long long deadline, long long ns)
{
	int epoll = epoll_create1(0);
	struct epoll_event event;

	for (long long left = ns; left > 0; left = deadline - at(CLOCK_MONOTONIC)) /* a negative timeout is for ever */
		epoll_wait(epoll, &event, 1, (left + 999999) / 1000000);
	close(epoll);
}

static void timer(clockid_t clock, int flags, long long value)
{
	int fd = timerfd_create(clock, 0);
	struct itimerspec wanted = { .it_value = spec(value) };
	uint64_t ticks;

	timerfd_settime(fd, flags, &wanted, NULL);
	while (read(fd, &ticks, sizeof(ticks)) < 0)
		;
	close(fd);
}

static void timer_until(long long deadline, long long ns)
{
	timer(CLOCK_MONOTONIC, TFD_TIMER_ABSTIME, deadline);
}

static void timer_since_boot(long long deadline, long long ns)
{
	timer(CLOCK_BOOTTIME, TFD_TIMER_ABSTIME, deadline + at(CLOCK_BOOTTIME) - at(CLOCK_MONOTONIC));
}

static void timer_for(long long deadline, long long ns)
{
	timer(CLOCK_MONOTONIC, 0, ns);
}

static struct way ways[] = {
	{ "sleepUntil", sleep_until, NS / 5 },	      { "sleepFor", sleep_for, NS / 5 },
	{ "condition", condition, NS / 5 },	      { "pollEvents", poll_events, NS / 5 },
	{ "timerUntil", timer_until, NS / 5 },	      { "timerSinceBoot", timer_since_boot, NS / 5 },
	{ "timerFor", timer_for, NS / 5 },	      { "longSleepUntil", sleep_until, NS },
	{ "longTimerUntil", timer_until, NS },
};
enum { WAYS = sizeof(ways) / sizeof(ways[0]) };

static void *repeat(void *argument)
{
	struct way *way = argument;

	for (;;) {
		long long deadline = at(CLOCK_MONOTONIC) + way->ns;

		way->wait(deadline, way->ns);
		long long late = at(CLOCK_MONOTONIC) - deadline;
		pthread_mutex_lock(&lock);
		if (late < way->earliest || way->ends == 0)
			way->earliest = late;
		if (late > way->latest || way->ends == 0)
			way->latest = late;
		way->ends++;
		pthread_mutex_unlock(&lock);
	}
	return NULL;
}

static void *watch(void *argument)
{
	long long monotonic = at(CLOCK_MONOTONIC), boot = at(CLOCK_BOOTTIME), day = at(CLOCK_REALTIME);

	for (;;) {
		long long monotonic_now = at(CLOCK_MONOTONIC), boot_now = at(CLOCK_BOOTTIME), day_now = at(CLOCK_REALTIME);
		long long gained = monotonic_now - monotonic - (day_now - day);

		pthread_mutex_lock(&lock);
		back += (monotonic_now < monotonic) + (boot_now < boot);
		if (gained > ahead)
			ahead = gained;
		pthread_mutex_unlock(&lock);
		monotonic = monotonic_now, boot = boot_now, day = day_now;
		usleep(200);
	}
	return NULL;
}

static void answer(int client)
{
	char uptime[32] = "0", text[2048];
	FILE *file = fopen("/proc/uptime", "r");

	if (file) {
		if (fscanf(file, "%31s", uptime) != 1)
			strcpy(uptime, "0");
		fclose(file);
	}
	pthread_mutex_lock(&lock);
	int length = snprintf(text, sizeof(text), "{\"monotonic\":%.6f,\"boottime\":%.6f,\"uptime\":%s,\"back\":%lld,\"ahead\":%.6f",
			      at(CLOCK_MONOTONIC) / 1e9, at(CLOCK_BOOTTIME) / 1e9, uptime, back, ahead / 1e9);
	for (int i = 0; i < WAYS; i++)
		length += snprintf(text + length, sizeof(text) - length, ",\"%s\":[%lld,%.6f,%.6f]", ways[i].name, ways[i].ends,
				   ways[i].earliest / 1e9, ways[i].latest / 1e9);
	pthread_mutex_unlock(&lock);
	length += snprintf(text + length, sizeof(text) - length, "}\n");
	if (write(client, text, length) != length)
		exit(1);
}

static const long long PERIOD = NS / 50;
enum { UNREAD, COUNTED, OVER, TIMERS };
static int timers[TIMERS];
static long long timers_set;

static long ticks_of(int fd, int limit_ms)
{
	struct pollfd event = { .fd = fd, .events = POLLIN };
	uint64_t ticks = 0;

	if (poll(&event, 1, limit_ms) > 0 && read(fd, &ticks, sizeof(ticks)) < 0)
		exit(1);
	return ticks;
}

/* How many ticks a timer has now, without reading them, as the kernel counts them. */
static long left_in(int fd)
{
	char path[64], text[512];
	long ticks = -1;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
	FILE *file = fopen(path, "r");
	while (fgets(text, sizeof(text), file))
		if (sscanf(text, "ticks: %ld", &ticks) == 1)
			break;
	fclose(file);
	return ticks;
}

static void set_timers(void)
{
	struct itimerspec periodic = { .it_value = spec(PERIOD), .it_interval = spec(PERIOD) };
	struct itimerspec past = { .it_value = spec(at(CLOCK_REALTIME)) };

	timers[OVER] = timerfd_create(CLOCK_REALTIME, 0);
	timerfd_settime(timers[OVER], TFD_TIMER_ABSTIME, &past, NULL);
	ticks_of(timers[OVER], -1);
	timers_set = at(CLOCK_MONOTONIC);
	for (int i = UNREAD; i <= COUNTED; i++) {
		timers[i] = timerfd_create(CLOCK_MONOTONIC, 0);
		timerfd_settime(timers[i], 0, &periodic, NULL);
	}
}

static void answer_ticks(int client)
{
	enum { LIMIT_MS = 5000 }; /* of a timer that has stopped */
	struct timespec some = spec(3 * PERIOD), one = spec(PERIOD + PERIOD / 2);
	struct itimerspec left;
	long ticks[2][2], over = ticks_of(timers[OVER], 0);
	char text[256];

	for (int i = UNREAD; i <= COUNTED; i++)
		for (int next = 0; next < 2; next++)
			ticks[i][next] = ticks_of(timers[i], LIMIT_MS);
	double since = (at(CLOCK_MONOTONIC) - timers_set) / 1e9;
	nanosleep(&some, NULL);
	timerfd_gettime(timers[COUNTED], &left); /* which counts them, and sets the timer to the next one */
	nanosleep(&one, NULL);
	int length = snprintf(text, sizeof(text), "unread %ld %ld %ld counted %ld %ld %ld over %ld %.6f\n", ticks[UNREAD][0],
			      ticks[UNREAD][1], left_in(timers[UNREAD]), ticks[COUNTED][0], ticks[COUNTED][1],
			      left_in(timers[COUNTED]), over, since);
	if (write(client, text, length) != length)
		exit(1);
}

int main(int argc, char **argv)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(argc > 1 ? atoi(argv[1]) : 0) };
	int listener = socket(AF_INET, SOCK_STREAM, 0), one = 1;
	char line[256];
	pthread_t thread;

	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(listener, (struct sockaddr *)&address, sizeof(address)) || listen(listener, 4))
		return 1;
	set_timers();
	for (int i = 0; i < WAYS; i++)
		if (pthread_create(&thread, NULL, repeat, &ways[i]))
			return 1;
	if (pthread_create(&thread, NULL, watch, NULL))
		return 1;
	for (;;) {
		int client = accept(listener, NULL, NULL);

		while (read(client, line, sizeof(line)) > 0)
			(*line == 't' ? answer_ticks : answer)(client);
		close(client);
	}
}
