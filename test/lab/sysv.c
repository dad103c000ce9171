/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sysv <port>: a parent and its child that work with System V objects alone: a segment of shared memory in which both count, a
 * set of semaphores by which they take turns, and a queue in which the parent leaves messages. To each line from a client on the
 * port the parent answers "<count> <turns of the child> <waiting messages> <first word in the queue> <key: found or lost>".
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/prctl.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <signal.h>
#include <unistd.h>

#define KEY 0x484f4d45
enum { MINE, YOURS, MESSAGES = 3, BYTES = 1 << 20 };

struct word {
	long type;
	char text[32];
};

struct board {
	long count, turns;
	char filler[BYTES];
};

static void change(int set, int number, int by)
{
	struct sembuf operation = { .sem_num = number, .sem_op = by };

	while (semop(set, &operation, 1))
		;
}

int main(int argc, char **argv)
{
	int segment = shmget(KEY, sizeof(struct board), IPC_CREAT | 0600), set = semget(KEY, 2, IPC_CREAT | 0600);
	int queue = msgget(KEY, IPC_CREAT | 0600), listener = socket(AF_INET, SOCK_STREAM, 0), one = 1;
	struct board *board = shmat(segment, NULL, 0);
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(argc > 1 ? atoi(argv[1]) : 0) };

	if (board == (void *)-1 || set < 0 || queue < 0 || semctl(set, MINE, SETVAL, 0) || semctl(set, YOURS, SETVAL, 0))
		return 1;
	memset(board->filler, 'x', BYTES);
	for (int i = 0; i < MESSAGES; i++) {
		struct word word = { .type = 1 };

		snprintf(word.text, sizeof(word.text), "word%d", i);
		if (msgsnd(queue, &word, sizeof(word.text), 0))
			return 1;
	}
	if (fork() == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (;;) {
			change(set, YOURS, -1);
			board->turns++;
			change(set, MINE, 1);
		}
	}
	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(listener, (struct sockaddr *)&address, sizeof(address)) || listen(listener, 4))
		return 1;
	for (;;) {
		int client = accept(listener, NULL, NULL);
		char line[128];

		while (read(client, line, sizeof(line)) > 0) {
			struct msqid_ds state;
			struct word word;
			long whole = 0;

			change(set, YOURS, 1);
			change(set, MINE, -1);
			board->count++;
			for (int i = 0; i < BYTES; i++)
				whole += board->filler[i] == 'x';
			/* The first goes to the end: that the order and the content stay is seen by the next ones. */
			if (msgrcv(queue, &word, sizeof(word.text), 0, IPC_NOWAIT) < 0 || msgctl(queue, IPC_STAT, &state) ||
			    msgsnd(queue, &word, sizeof(word.text), 0))
				return 1;
			int found = shmget(KEY, 0, 0) == segment && semget(KEY, 0, 0) == set && msgget(KEY, 0) == queue;
			int length = snprintf(line, sizeof(line), "%ld %ld %ld %s %s %s\n", board->count, board->turns,
					      (long)state.msg_qnum + 1, word.text, found ? "found" : "lost",
					      whole == BYTES ? "whole" : "torn");
			if (write(client, line, length) != length)
				return 1;
		}
		close(client);
	}
}
