// SPDX-License-Identifier: Apache-2.0
/*
 * Room for memory that will come whole, made of huge pages by a thread ahead of what comes: the kernel has to clear each page, and
 * nothing would be read meanwhile, nor sent. CRIU has no threads; this one has ended before it begins to restore.
 */
#define _GNU_SOURCE
#include "criu-memory.h"

#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>

#define HUGE_PAGE (1ul << 21)
#define COLLAPSE 25 /* MADV_COLLAPSE, linux/mman.h of 6.1 */
#define MAX_WAITING 4096

static pthread_t thread;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static bool running, over;
/* What is to be made, in turn; all before `made` is, and what follows `asked` is free. They only grow. */
static struct range waiting[MAX_WAITING];
static unsigned long made, asked;

/*
 * Makes huge pages of memory that will be full, where the kernel can: they are had in less time than 512 small ones, and what
 * CRIU forks in the freeze inherits them as quickly as one. Unlike MADV_HUGEPAGE this leaves no mark on the mapping. Each call
 * waits for all processors (lru_add_drain_all): one for all of it.
 */
static void make_huge(const struct range *at)
{
	/* where there is no page table yet there is nothing to collapse */
	for (uint64_t page = at->start; page < at->end; page += HUGE_PAGE)
		__atomic_fetch_or((char *)(uintptr_t)page, 0, __ATOMIC_RELAXED);
	madvise((void *)(uintptr_t)at->start, at->end - at->start, COLLAPSE);
}

static void *work(void *unused)
{
	pthread_mutex_lock(&lock);
	for (;;) {
		while (made == asked && !over)
			pthread_cond_wait(&changed, &lock);
		if (over)
			break;

		const struct range next = waiting[made % MAX_WAITING];

		pthread_mutex_unlock(&lock);
		make_huge(&next);
		pthread_mutex_lock(&lock);
		made++;
		pthread_cond_broadcast(&changed);
	}
	pthread_mutex_unlock(&lock);
	return unused;
}

static bool start(void)
{
	sigset_t all, before;

	sigfillset(&all); /* CRIU's handlers are for its own thread */
	pthread_sigmask(SIG_BLOCK, &all, &before);
	running = pthread_create(&thread, NULL, work, NULL) == 0;
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return running;
}

void ask_room(const void *place, uint64_t bytes)
{
	const uint64_t at = (uintptr_t)place;
	const struct range whole = { (at + HUGE_PAGE - 1) & ~(HUGE_PAGE - 1), (at + bytes) & ~(HUGE_PAGE - 1) };

	if (whole.start >= whole.end)
		return;
	if (!running && !start()) {
		make_huge(&whole);
		return;
	}
	pthread_mutex_lock(&lock);
	while (asked - made == MAX_WAITING)
		pthread_cond_wait(&changed, &lock);
	waiting[asked++ % MAX_WAITING] = whole;
	pthread_cond_broadcast(&changed);
	pthread_mutex_unlock(&lock);
}

void await_room(const void *place, uint64_t bytes)
{
	const uint64_t at = (uintptr_t)place;
	unsigned long last = 0;

	if (!running)
		return;
	pthread_mutex_lock(&lock);
	for (unsigned long each = made; each < asked; each++)
		if (waiting[each % MAX_WAITING].start < at + bytes && at < waiting[each % MAX_WAITING].end)
			last = each + 1;
	while (made < last)
		pthread_cond_wait(&changed, &lock);
	pthread_mutex_unlock(&lock);
}

void end_room(void)
{
	if (!running)
		return;
	pthread_mutex_lock(&lock);
	over = true;
	pthread_cond_broadcast(&changed);
	pthread_mutex_unlock(&lock);
	pthread_join(thread, NULL);
	running = false;
}
