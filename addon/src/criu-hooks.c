// SPDX-License-Identifier: Apache-2.0
/*
 * Loaded before CRIU's libraries where CRIU runs in a root that has neither our action script nor a shell. CRIU forks and calls
 * execvp(3) for the script (cr_system, criu/util.c); here that call does itself what config/criu-action.sh does, word for word.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int waits_at(const char *hook)
{
	static const char *const hooks[] = {"pre-dump", "post-dump", "post-restore", "pre-resume"};

	for (size_t i = 0; i < sizeof(hooks) / sizeof(*hooks); i++)
		if (strcmp(hook, hooks[i]) == 0)
			return 1;
	return 0;
}

/* One line without its end; -1 when the other end is gone. Bytes one by one: what follows is for the next hook. */
static int read_line(int fd, char *line, size_t room)
{
	size_t length = 0;

	for (;;) {
		char byte;
		ssize_t got = read(fd, &byte, 1);

		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return -1;
		if (byte == '\n')
			break;
		if (length + 1 < room)
			line[length++] = byte;
	}
	line[length] = '\0';
	return 0;
}

static int announce(const char *images, const char *hook)
{
	char path[PATH_MAX], line[64];
	int fd, length;

	snprintf(path, sizeof(path), "%s/hooks.log", images);
	fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0)
		return -1;
	length = snprintf(line, sizeof(line), "%s\n", hook);
	length = write(fd, line, length) == length ? 0 : -1;
	close(fd);
	return length;
}

/* The script's exit status: 0 lets CRIU go on, 1 is a veto. */
static int ask(const char *hook, const char *images)
{
	char path[PATH_MAX], line[128], go[64];
	struct stat fifo;

	if (!waits_at(hook))
		return 0;
	if (announce(images, hook) != 0)
		return 1;
	snprintf(path, sizeof(path), "%s/verdict", images);
	snprintf(go, sizeof(go), "go %s", hook);
	while (stat(path, &fifo) == 0 && S_ISFIFO(fifo.st_mode)) {
		int fd = open(path, O_RDONLY | O_CLOEXEC);
		int got;

		if (fd < 0) {
			if (errno == EINTR)
				continue;
			return 1;
		}
		got = read_line(fd, line, sizeof(line));
		close(fd);
		if (got != 0)
			continue;
		if (strcmp(line, "stop") == 0)
			return 1;
		if (strcmp(line, go) == 0)
			return 0;
	}
	return 1;
}

__attribute__((visibility("default"))) int execvp(const char *file, char *const argv[])
{
	const char *hook = getenv("CRTOOLS_SCRIPT_ACTION"), *images = getenv("CRTOOLS_IMAGE_DIR");
	int (*next)(const char *, char *const[]) = (int (*)(const char *, char *const[]))dlsym(RTLD_NEXT, "execvp");

	if (hook && images)
		_exit(ask(hook, images));
	return next(file, argv); /* a program that CRIU wants: it is as absent as the root has it */
}
