// SPDX-License-Identifier: Apache-2.0
/*
 * warm-memory <MiB>: writes to so much memory and gives it back. A virtual machine's host may have taken free memory back: what is
 * free afterwards is there.
 */
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/mman.h>

enum { PAGE = 4096 };

int main(int count, char **words)
{
	const size_t bytes = count == 2 ? strtoul(words[1], NULL, 10) << 20 : 0;
	char *memory;

	if (bytes == 0)
		return 2;
	memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		return 1;
	madvise(memory, bytes, MADV_HUGEPAGE); /* as a process that arrives has it */
	for (size_t at = 0; at < bytes; at += PAGE)
		((volatile char *)memory)[at] = 1;
	return 0;
}
