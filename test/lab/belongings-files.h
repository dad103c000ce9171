/* SPDX-License-Identifier: Apache-2.0 */
/* Belongings: files that are mapped, locked, open, or have lost their name. */
#include "belongings-must.h"

/* --- files: without a name, locked, mapped, open --- */

static int memory_file, ghost, flocked, locked, opened, log_file;
static char *private_map, *shared_map, *ghost_map;

static int made_file(const char *folder, const char *name, int flags)
{
	return open(path_in(folder, name), O_RDWR | flags, 0644);
}

static int open_files(void)
{
	static char page[PAGE];

	MUST((memory_file = memfd_create("belonging", MFD_ALLOW_SEALING | MFD_CLOEXEC)) >= 0);
	MUST(ftruncate(memory_file, 2 * PAGE) == 0 && fcntl(memory_file, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) == 0);
	MUST((ghost = made_file(own_folder, "ghost", O_CREAT)) >= 0 && unlink(path_in(own_folder, "ghost")) == 0);
	MUST(ftruncate(ghost, GHOST_BYTES) == 0);
	ghost_map = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, ghost, 0);
	MUST(ghost_map != MAP_FAILED);
	/* of these each node has its own, of the same size: a lock in a file that the nodes share would be taken already */
	MUST((flocked = made_file(own_folder, "flocked", 0)) >= 0 && flock(flocked, LOCK_EX) == 0);
	MUST((locked = made_file(own_folder, "locked", 0)) >= 0);
	struct flock range = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 10, .l_len = 20 };

	MUST(fcntl(locked, F_SETLK, &range) == 0);
	MUST((opened = made_file(shared_folder, "opened", O_CREAT | O_APPEND)) >= 0);
	MUST((log_file = open(path_in(shared_folder, "mapped"), O_RDWR | O_CREAT, 0644)) >= 0);
	for (int i = 0; i < 4; i++)
		MUST(write(log_file, page, PAGE) == PAGE);
	shared_map = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, log_file, 0);
	private_map = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, log_file, 2 * PAGE);
	MUST(shared_map != MAP_FAILED && private_map != MAP_FAILED);
	return 0;
}

static int arm_files(void)
{
	static char bytes[GHOST_BYTES];

	fill(bytes, sizeof(bytes));
	MUST(pwrite(memory_file, bytes, 2 * PAGE, 0) == 2 * PAGE && lseek(memory_file, 123, SEEK_SET) == 123);
	MUST(pwrite(ghost, bytes, sizeof(bytes), 0) == sizeof(bytes) && lseek(ghost, 4567, SEEK_SET) == 4567);
	fill(shared_map, 2 * PAGE);
	fill(private_map, PAGE); /* the second page stays the file's */
	MUST(write(opened, bytes, 1000) == 1000);
	return 0;
}

/* Whether another process may lock a file: it says so by its exit status. */
static int others_may(int (*lock)(void))
{
	int status;
	pid_t child = fork();

	if (child == 0)
		_exit(lock() == 0);
	return waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 1;
}

static int try_flock(void)
{
	return flock(made_file(own_folder, "flocked", 0), LOCK_EX | LOCK_NB);
}

static int try_range(void)
{
	struct flock range = { .l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = 25, .l_len = 100 };

	return fcntl(made_file(own_folder, "locked", 0), F_SETLK, &range);
}

static int try_other_range(void)
{
	struct flock range = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 30, .l_len = 100 };

	return fcntl(made_file(own_folder, "locked", 0), F_SETLK, &range);
}

static int check_files(void)
{
	static char bytes[GHOST_BYTES];
	struct stat stats;

	MUST(lseek(memory_file, 0, SEEK_CUR) == 123 && fcntl(memory_file, F_GET_SEALS) == (F_SEAL_SHRINK | F_SEAL_GROW));
	MUST(pread(memory_file, bytes, 2 * PAGE, 0) == 2 * PAGE && is_pattern(bytes, 2 * PAGE));
	MUST(ftruncate(memory_file, PAGE) == -1 && errno == EPERM);

	MUST(lseek(ghost, 0, SEEK_CUR) == 4567 && fstat(ghost, &stats) == 0 && stats.st_nlink == 0);
	MUST(stats.st_size == GHOST_BYTES && pread(ghost, bytes, sizeof(bytes), 0) == sizeof(bytes));
	MUST(is_pattern(bytes, sizeof(bytes)) && is_pattern(ghost_map, PAGE));
	ghost_map[0]++; /* the mapping and the descriptor are one file still */
	MUST(pread(ghost, bytes, 1, 0) == 1 && bytes[0] == ghost_map[0]);

	MUST(!others_may(try_flock));
	MUST(!others_may(try_range));
	MUST(others_may(try_other_range));

	MUST(is_pattern(shared_map, 2 * PAGE) && pread(log_file, bytes, 2 * PAGE, 0) == 2 * PAGE && is_pattern(bytes, 2 * PAGE));
	MUST(is_pattern(private_map, PAGE) && private_map[PAGE] == 0);
	MUST(pread(log_file, bytes, PAGE, 2 * PAGE) == PAGE && bytes[1] == 0); /* what is private is not in the file */
	MUST(fstat(opened, &stats) == 0 && stats.st_size == 1000 * (long)(round_number + 1));
	MUST((fcntl(opened, F_GETFL) & O_APPEND) && pread(opened, bytes, 1000, stats.st_size - 1000) == 1000);
	MUST(is_pattern(bytes, 1000));
	return 0;
}
