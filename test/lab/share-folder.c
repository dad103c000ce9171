/* SPDX-License-Identifier: Apache-2.0 */
/*
 * share-folder <pid> <other pid> <folder>: puts the folder that one process sees where the other has one of that name, as a network
 * file system would: both see the same files from then on.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <sys/mount.h>
#include <unistd.h>

static int mounts_of(const char *pid)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%s/ns/mnt", pid);
	return open(path, O_RDONLY | O_CLOEXEC);
}

int main(int argc, char **argv)
{
	if (argc != 4)
		return 1;
	int from = mounts_of(argv[1]), to = mounts_of(argv[2]);

	if (setns(from, CLONE_NEWNS))
		return 2;
	int folder = open_tree(AT_FDCWD, argv[3], OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);

	if (folder < 0 || setns(to, CLONE_NEWNS))
		return 3;
	return move_mount(folder, "", AT_FDCWD, argv[3], MOVE_MOUNT_F_EMPTY_PATH) ? 4 : 0;
}
