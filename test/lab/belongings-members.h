/* SPDX-License-Identifier: Apache-2.0 */
/* Belongings: the processes and threads of the tree, and children that have ended. */
#include "belongings-must.h"

/* --- members of the tree, each of which answers one byte with what it finds about itself --- */

struct self {
	pid_t pid, parent, session, group;
	long counter, stamp; /* what it finds in the anonymous shared memory, and in the memfd */
};

struct member {
	int channel; /* ours, of a socketpair */
	struct self then;
};

static _Atomic long *shared_counter; /* anonymous memory, shared by all */
static long *stamp; /* in a memfd that all have mapped */
static struct member leader, grouped, grandchild, threaded;

static struct self look(void)
{
	return (struct self){ getpid(), getppid(), getsid(0), getpgid(0), ++*shared_counter, *stamp };
}

static void answer_on(int channel)
{
	char byte;

	while (read(channel, &byte, 1) == 1) {
		struct self self = look();

		if (write(channel, &self, sizeof(self)) != sizeof(self))
			break;
	}
	_exit(0);
}

static int ask(struct member *member, struct self *self)
{
	MUST(write(member->channel, "?", 1) == 1);
	MUST(read(member->channel, self, sizeof(*self)) == sizeof(*self));
	return 0;
}

static int same_member(const char *name, struct member *member)
{
	struct self now;
	long before = *shared_counter;

	*stamp = before * 3;
	if (ask(member, &now))
		return -1;
	if (now.pid != member->then.pid || now.parent != member->then.parent || now.session != member->then.session ||
	    now.group != member->then.group)
		return wrong("%s: pid %d, parent %d, session %d, group %d; before the move %d, %d, %d, %d", name, now.pid, now.parent,
			     now.session, now.group, member->then.pid, member->then.parent, member->then.session, member->then.group);
	MUST(now.counter == before + 1); /* it wrote what we read */
	MUST(*shared_counter == now.counter);
	MUST(now.stamp == before * 3); /* it reads what we wrote */
	return 0;
}

/* The other thread counts on, once for each time that it is woken. */
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t woken = PTHREAD_COND_INITIALIZER;
static sem_t counted;
static long thread_wakes, thread_count;
static pid_t thread_id;

static void *count_wakes(void *unused)
{
	(void)unused;
	thread_id = gettid();
	prctl(PR_SET_NAME, "counting-thread");
	sem_post(&counted);
	pthread_mutex_lock(&mutex);
	for (;;) {
		while (thread_count == thread_wakes)
			pthread_cond_wait(&woken, &mutex);
		thread_count++;
		if (gettid() != thread_id)
			thread_count = -1;
		sem_post(&counted);
	}
	return NULL;
}

static int check_thread(void)
{
	char name[16];

	pthread_mutex_lock(&mutex);
	thread_wakes++;
	pthread_cond_signal(&woken);
	pthread_mutex_unlock(&mutex);
	sem_wait(&counted);
	MUST(thread_count == thread_wakes);
	char path[64];

	snprintf(path, sizeof(path), "/proc/self/task/%d/comm", thread_id);
	FILE *comm = fopen(path, "r");

	MUST(comm != NULL);
	MUST(fgets(name, sizeof(name), comm) != NULL);
	fclose(comm);
	MUST(strncmp(name, "counting-thread", 15) == 0);
	return 0;
}

static void start_members(void)
{
	int ends[4][2], memory = memfd_create("stamp", MFD_CLOEXEC);

	if (ftruncate(memory, PAGE))
		exit(3);
	stamp = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);

	shared_counter = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	for (int i = 0; i < 4; i++)
		socketpair(AF_UNIX, SOCK_STREAM, 0, ends[i]);
	if (fork() == 0) { /* leads a session, and has a child in it */
		setsid();
		if (fork() == 0)
			answer_on(ends[1][1]);
		answer_on(ends[0][1]);
	}
	if (fork() == 0) { /* leads a process group in our session */
		setpgid(0, 0);
		answer_on(ends[2][1]);
	}
	if (fork() == 0) { /* has threads, of which another than the first answers */
		pthread_t ignored;

		pthread_create(&ignored, NULL, (void *(*)(void *))(void *)answer_on, (void *)(long)ends[3][1]);
		pthread_join(ignored, NULL);
	}
	struct member *members[] = { &leader, &grandchild, &grouped, &threaded };

	for (int i = 0; i < 4; i++) {
		members[i]->channel = ends[i][0];
		close(ends[i][1]);
	}
	pthread_t ignored;

	sem_init(&counted, 0, 0);
	pthread_create(&ignored, NULL, count_wakes, NULL);
	sem_wait(&counted);
}

static int know_members(void)
{
	struct member *members[] = { &leader, &grandchild, &grouped, &threaded };

	for (int i = 0; i < 4; i++)
		if (ask(members[i], &members[i]->then))
			return -1;
	MUST(leader.then.session == leader.then.pid && leader.then.group == leader.then.pid);
	MUST(grandchild.then.parent == leader.then.pid && grandchild.then.session == leader.then.pid);
	MUST(grouped.then.group == grouped.then.pid && grouped.then.session == getsid(0));
	return 0;
}

static int check_members(void)
{
	if (same_member("leader of a session", &leader) || same_member("its child", &grandchild) ||
	    same_member("leader of a group", &grouped) || same_member("with threads", &threaded))
		return -1;
	return check_thread();
}

/* --- children that have ended, for which nobody has waited yet --- */

static pid_t exited, killed;

static int arm_zombies(void)
{
	siginfo_t info;

	exited = fork();
	if (exited == 0)
		_exit(7 + round_number);
	killed = fork();
	if (killed == 0) {
		raise(SIGKILL);
		_exit(0);
	}
	MUST(waitid(P_PID, exited, &info, WEXITED | WNOWAIT) == 0);
	MUST(waitid(P_PID, killed, &info, WEXITED | WNOWAIT) == 0);
	return 0;
}

static int check_zombies(void)
{
	int status;

	MUST(waitpid(exited, &status, 0) == exited);
	MUST(WIFEXITED(status) && WEXITSTATUS(status) == (int)(7 + round_number));
	MUST(waitpid(killed, &status, 0) == killed);
	MUST(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	return 0;
}
