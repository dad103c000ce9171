/* SPDX-License-Identifier: Apache-2.0 */
/*
 * posix <port>: a parent and its child that work with POSIX shared memory: an object in which both count, of which they keep no
 * descriptor, two named semaphores by which they take turns, and an object that the parent has open alone and into which it writes
 * its last count. To each line from a client on the port the parent answers
 * "<count> <turns of the child> <last count in the open object> <names: found or lost> <content: whole or torn>".
 * posix <port> <name>: has that object in its memory as well.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

enum { BYTES = 1 << 20 };

struct board {
	long count, turns;
	char filler[BYTES];
};

static struct board *board_of(const char *name)
{
	int fd = shm_open(name, O_RDWR | O_CREAT, 0640);
	struct board *board = MAP_FAILED;

	if (fd >= 0 && !ftruncate(fd, sizeof(*board)))
		board = mmap(NULL, sizeof(*board), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	if (board == MAP_FAILED)
		exit(1);
	return board;
}

static void wait_for(sem_t *semaphore)
{
	while (sem_wait(semaphore))
		;
}

int main(int argc, char **argv)
{
	const char *name = argc > 2 ? argv[2] : "/hp-board";
	struct board *board = board_of(name);
	sem_t *mine = sem_open("/hp-mine", O_CREAT, 0600, 0), *yours = sem_open("/hp-yours", O_CREAT, 0600, 0);
	int notes = shm_open("/hp-notes", O_RDWR | O_CREAT, 0600), listener = socket(AF_INET, SOCK_STREAM, 0), one = 1;
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(argc > 1 ? atoi(argv[1]) : 0) };
	struct stat here, there;

	if (mine == SEM_FAILED || yours == SEM_FAILED || notes < 0)
		return 1;
	memset(board->filler, 'x', BYTES);
	if (fork() == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (;;) {
			wait_for(yours);
			board->turns++;
			sem_post(mine);
		}
	}
	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(listener, (struct sockaddr *)&address, sizeof(address)) || listen(listener, 4))
		return 1;
	for (;;) {
		int client = accept(listener, NULL, NULL);
		char line[128];

		while (read(client, line, sizeof(line)) > 0) {
			long whole = 0, last = 0;

			sem_post(yours);
			wait_for(mine);
			board->count++;
			for (int i = 0; i < BYTES; i++)
				whole += board->filler[i] == 'x';
			if (pread(notes, &last, sizeof(last), 0) < 0 ||
			    pwrite(notes, &board->count, sizeof(last), 0) != sizeof(last))
				return 1;
			/* Under its name there is what it has: one that opens it now shares it. */
			int again = shm_open("/hp-notes", O_RDWR, 0);
			int found = again >= 0 && !fstat(again, &there) && !fstat(notes, &here) && here.st_ino == there.st_ino;
			struct board *other = board_of(name);
			found = found && other->count == board->count && (here.st_mode & 0777) == 0600;
			munmap(other, sizeof(*other));
			close(again);
			int length = snprintf(line, sizeof(line), "%ld %ld %ld %s %s\n", board->count, board->turns, last,
					      found ? "found" : "lost", whole == BYTES ? "whole" : "torn");
			if (write(client, line, length) != length)
				return 1;
		}
		close(client);
	}
}
