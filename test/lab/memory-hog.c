/* SPDX-License-Identifier: Apache-2.0 */
/*
 * memory-hog <file> <MiB> <processes>: makes the file, of real content, forgets its name, and has that many processes read all of it
 * again and again. In a cgroup with less memory than that, every page that is read drives out another: they wait for memory
 * (Documentation/accounting/psi.rst). Of what a file holds all can be dropped, but not what is just being read.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

enum { BLOCK = 1 << 16, PAGE = 4096 };

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

int main(int argc, char **argv)
{
	char block[BLOCK];
	long bytes, processes;
	volatile char *memory;
	int fd;

	if (argc != 4)
		return 2;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	bytes = atol(argv[2]) << 20;
	processes = atol(argv[3]);
	fd = open(argv[1], O_RDWR | O_CREAT | O_EXCL, 0600);
	if (fd < 0 || unlink(argv[1]))
		fail(argv[1]);
	memset(block, 'x', sizeof(block));
	for (long at = 0; at < bytes; at += BLOCK)
		if (write(fd, block, BLOCK) != BLOCK)
			fail("write");
	if (fsync(fd)) /* dirty pages could not be dropped */
		fail("fsync");
	memory = mmap(NULL, bytes, PROT_READ, MAP_SHARED, fd, 0);
	if (memory == MAP_FAILED)
		fail("mmap");
	for (long number = 1; number < processes; number++)
		if (fork() == 0) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			break;
		}
	for (;;)
		for (long at = 0; at < bytes; at += PAGE)
			(void)memory[at];
}
