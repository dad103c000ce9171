/* SPDX-License-Identifier: Apache-2.0 */
/*
 * belongings <address> <port> <shared folder> <own folder>: a tree that owns one of everything a process may own beside TCP
 * connections. Told "check", it looks whether each thing is as it was left, answers "ok" or the first fault, and leaves all
 * of them in a known state again. The shared folder is the same on all nodes (as NFS is); the own one has the same path.
 */
#define _GNU_SOURCE
#include "belongings-members.h"
#include "belongings-waiting.h"
#include "belongings-files.h"
#include "listener.h"

/* --- what a process is by itself --- */

static int check_self(void)
{
	struct rlimit limit;
	char folder[512];

	MUST(getcwd(folder, sizeof(folder)) != NULL && strcmp(folder, own_folder) == 0);
	mode_t mask = umask(027);

	MUST(mask == 027);
	MUST(getrlimit(RLIMIT_CORE, &limit) == 0 && limit.rlim_cur == 12345 && limit.rlim_max == 23456);
	MUST(getpriority(PRIO_PROCESS, 0) == 3);
	return 0;
}

static int be_someone(void)
{
	MUST(chdir(own_folder) == 0);
	umask(027);
	MUST(setrlimit(RLIMIT_CORE, &(struct rlimit){ 12345, 23456 }) == 0);
	MUST(setpriority(PRIO_PROCESS, 0, 3) == 0);
	return 0;
}

static int arm(void)
{
	return arm_zombies() || arm_channels() || arm_timers() || arm_waiting() || arm_files() ? -1 : 0;
}

static int check(void)
{
	if (check_self() || check_members() || check_zombies() || check_channels() || check_timers() || check_waiting() || check_files())
		return -1;
	round_number++;
	return arm();
}

int main(int argc, char **argv)
{
	if (argc != 5)
		return 1;
	shared_folder = argv[3];
	own_folder = argv[4];
	int listener = listener_at(argv[1], atoi(argv[2]));
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR2);
	sigprocmask(SIG_BLOCK, &set, NULL); /* in all threads: it waits for the signalfd */
	start_members();
	if (be_someone() || know_members() || open_channels() || open_timers() || open_files() || open_waiting() || arm()) {
		fprintf(stderr, "%s\n", fault);
		return 2;
	}
	for (;;) {
		int client = accept(listener, NULL, NULL);
		char line[64];

		while (read(client, line, sizeof(line)) > 0)
			dprintf(client, "%s\n", check() ? fault : "ok");
		close(client);
	}
}
