/* SPDX-License-Identifier: Apache-2.0 */
/* Belongings: pipes, unix sockets, timers and what waits for something. */
#include "belongings-must.h"

/* --- pipes and unix sockets with data in them --- */

static int pipe_ends[2], stream[2], datagrams[2], packets[2], named[2];

static int open_channels(void)
{
	struct sockaddr_un name = { .sun_family = AF_UNIX };
	int length = offsetof(struct sockaddr_un, sun_path) + 1 + snprintf(name.sun_path + 1, 64, "belongings-%d", getpid());
	int listener = socket(AF_UNIX, SOCK_STREAM, 0);

	MUST(pipe2(pipe_ends, O_NONBLOCK) == 0);
	MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, stream) == 0);
	MUST(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0, datagrams) == 0);
	MUST(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, packets) == 0);
	MUST(bind(listener, (struct sockaddr *)&name, length) == 0 && listen(listener, 1) == 0);
	named[0] = socket(AF_UNIX, SOCK_STREAM, 0);
	MUST(connect(named[0], (struct sockaddr *)&name, length) == 0);
	named[1] = accept(listener, NULL, NULL);
	MUST(named[1] >= 0); /* the listener stays open */
	return 0;
}

static int arm_channels(void)
{
	static char bytes[PIPE_BYTES];

	fill(bytes, sizeof(bytes));
	MUST(write(pipe_ends[1], bytes, sizeof(bytes)) == sizeof(bytes));
	MUST(write(stream[0], bytes, 3000) == 3000 && write(stream[1], bytes, 2000) == 2000);
	MUST(write(named[0], bytes, 1000) == 1000);
	for (int length = 1; length <= 300; length += 100) {
		MUST(send(datagrams[0], bytes, length, 0) == length);
		MUST(send(packets[1], bytes, length, 0) == length);
	}
	return 0;
}

static int check_channels(void)
{
	static char bytes[PIPE_BYTES + 1];

	MUST(read(pipe_ends[0], bytes, sizeof(bytes)) == PIPE_BYTES && is_pattern(bytes, PIPE_BYTES));
	MUST(read(pipe_ends[0], bytes, 1) == -1 && errno == EAGAIN);
	MUST(recv(stream[1], bytes, sizeof(bytes), MSG_DONTWAIT) == 3000 && is_pattern(bytes, 3000));
	MUST(recv(stream[0], bytes, sizeof(bytes), MSG_DONTWAIT) == 2000 && is_pattern(bytes, 2000));
	MUST(recv(named[1], bytes, sizeof(bytes), MSG_DONTWAIT) == 1000 && is_pattern(bytes, 1000));
	for (int length = 1; length <= 300; length += 100) {
		MUST(recv(datagrams[1], bytes, sizeof(bytes), 0) == length && is_pattern(bytes, length));
		MUST(recv(packets[0], bytes, sizeof(bytes), 0) == length && is_pattern(bytes, length));
	}
	MUST(recv(datagrams[1], bytes, sizeof(bytes), 0) == -1 && errno == EAGAIN);
	return 0;
}

/* --- timers: what is left of them, and that they still go off --- */

static timer_t posix_timer;
static int timer_fd, ticking;
static time_t armed_at; /* a clock that the moves do not touch */

static int open_timers(void)
{
	struct sigevent event = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN, .sigev_value.sival_int = 42 };

	MUST(timer_create(CLOCK_MONOTONIC, &event, &posix_timer) == 0);
	MUST((timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK)) >= 0);
	MUST((ticking = timerfd_create(CLOCK_MONOTONIC, 0)) >= 0);
	struct itimerspec tick = { .it_value.tv_nsec = 50000000, .it_interval.tv_nsec = 50000000 };

	MUST(timerfd_settime(ticking, 0, &tick, NULL) == 0);
	return 0;
}

static int arm_timers(void)
{
	struct itimerval real = { .it_value.tv_sec = LONG_S, .it_interval.tv_sec = 11 };
	struct itimerspec spec = { .it_value.tv_sec = LONG_S, .it_interval.tv_sec = 12 };

	armed_at = time(NULL);
	MUST(setitimer(ITIMER_REAL, &real, NULL) == 0);
	MUST(timer_settime(posix_timer, 0, &spec, NULL) == 0);
	MUST(timerfd_settime(timer_fd, 0, &spec, NULL) == 0);
	return 0;
}

/* A timer stands still with its process, or goes on meanwhile: what is left is in between. */
static int is_left(time_t seconds)
{
	return seconds <= LONG_S && seconds >= LONG_S - (time(NULL) - armed_at) - 2;
}

static int check_timers(void)
{
	struct itimerval real;
	struct itimerspec spec;
	uint64_t ticks;

	MUST(getitimer(ITIMER_REAL, &real) == 0 && is_left(real.it_value.tv_sec) && real.it_interval.tv_sec == 11);
	MUST(timer_gettime(posix_timer, &spec) == 0 && is_left(spec.it_value.tv_sec) && spec.it_interval.tv_sec == 12);
	MUST(timerfd_gettime(timer_fd, &spec) == 0 && is_left(spec.it_value.tv_sec) && spec.it_interval.tv_sec == 12);
	MUST(read(ticking, &ticks, sizeof(ticks)) == sizeof(ticks) && ticks >= 1); /* those that came before the move */
	MUST(read(ticking, &ticks, sizeof(ticks)) == sizeof(ticks) && ticks >= 1); /* and it goes on */
	return 0;
}

/* --- descriptors that wait for something --- */

static int watch, events, counter, signals;

static int open_waiting(void)
{
	sigset_t set;

	MUST((watch = inotify_init1(IN_NONBLOCK)) >= 0);
	MUST(inotify_add_watch(watch, shared_folder, IN_CREATE | IN_DELETE) >= 0);
	MUST((counter = eventfd(0, EFD_NONBLOCK)) >= 0);
	sigemptyset(&set);
	sigaddset(&set, SIGUSR2);
	MUST((signals = signalfd(-1, &set, SFD_NONBLOCK)) >= 0);
	MUST((events = epoll_create1(0)) >= 0);
	MUST(epoll_ctl(events, EPOLL_CTL_ADD, watch, &(struct epoll_event){ EPOLLIN, { .u64 = 1 } }) == 0);
	MUST(epoll_ctl(events, EPOLL_CTL_ADD, counter, &(struct epoll_event){ EPOLLIN, { .u64 = 1ULL << 40 } }) == 0);
	MUST(epoll_ctl(events, EPOLL_CTL_ADD, timer_fd, &(struct epoll_event){ EPOLLIN, { .u64 = 3 } }) == 0);
	return 0;
}

static int arm_waiting(void)
{
	uint64_t value = 41;

	MUST(write(counter, &value, sizeof(value)) == sizeof(value));
	MUST(sigqueue(getpid(), SIGUSR2, (union sigval){ .sival_int = 77 + (int)round_number }) == 0);
	return 0;
}

static int check_waiting(void)
{
	struct epoll_event ready[4];
	struct signalfd_siginfo info;
	char bytes[4096];
	uint64_t value;

	MUST(epoll_wait(events, ready, 4, 0) == 1 && ready[0].data.u64 == 1ULL << 40 && ready[0].events == EPOLLIN);
	MUST(read(counter, &value, sizeof(value)) == sizeof(value) && value == 41);
	MUST(epoll_wait(events, ready, 4, 0) == 0);

	MUST(read(signals, &info, sizeof(info)) == sizeof(info) && info.ssi_signo == SIGUSR2);
	MUST(info.ssi_int == 77 + (int)round_number && info.ssi_pid == (uint32_t)getpid());
	MUST(read(signals, &info, sizeof(info)) == -1 && errno == EAGAIN);

	const char *path = path_in(shared_folder, "made");
	int made = open(path, O_CREAT | O_WRONLY, 0600);

	MUST(made >= 0 && close(made) == 0 && unlink(path) == 0);
	MUST(epoll_wait(events, ready, 4, 0) == 1 && ready[0].data.u64 == 1);
	ssize_t got = read(watch, bytes, sizeof(bytes));
	struct inotify_event *create = (struct inotify_event *)bytes;

	MUST(got >= (ssize_t)(2 * sizeof(*create)) && create->mask == IN_CREATE && strcmp(create->name, "made") == 0);
	struct inotify_event *delete = (struct inotify_event *)(bytes + sizeof(*create) + create->len);

	MUST(delete->mask == IN_DELETE && read(watch, bytes, sizeof(bytes)) == -1);
	return 0;
}
