// SPDX-License-Identifier: Apache-2.0
/*
 * Loaded into CRIU (LD_PRELOAD): what CRIU would run a script for, at its hooks, it does itself.
 *
 * At each hook CRIU sets CRTOOLS_SCRIPT_ACTION, forks, executes the script in the child and waits for its status (run_shell_scripts,
 * criu/action-scripts.c; cr_system, criu/util.c). Five times in a freeze that is a copy of CRIU's page tables, which hold all memory
 * that has come ahead, and a shell; and in a pod with a root of its own there is no shell. Here fork() does the hook's work in CRIU,
 * and answers with a child that shares CRIU's memory and does nothing but end with the status.
 *
 * The work: the hook is named in a file beside the images, which the daemon watches, and the daemon's word is waited for in a FIFO
 * there: `go <hook>`, or `stop`. Status 1 at post-dump or post-restore is a veto (CRIU resumes the process, or gives the restore
 * up); at pre-resume CRIU ignores it: there the copy is certain to run, and only waits until it may be heard. At post-resume it
 * runs, and nothing is waited for.
 *
 * When the daemon dies nobody may decide in its place: opening the FIFO again waits until a restarted daemon, which knows from its
 * journal what was promised, writes its word. Without the FIFO there is nobody left to ask.
 */
#define _GNU_SOURCE
#include "criu-hooks.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Of the images. CRIU names it by a descriptor of its own (/proc/<pid>/fd/<n>), which it has closed at its last hook. */
static char folder[PATH_MAX];

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

static int announce(const char *hook)
{
	char path[PATH_MAX + 16], line[64];
	int fd, length;

	snprintf(path, sizeof(path), "%s/hooks.log", folder);
	fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0)
		return -1;
	length = snprintf(line, sizeof(line), "%s\n", hook);
	length = write(fd, line, length) == length ? 0 : -1;
	close(fd);
	return length;
}

/* The status: 0 lets CRIU go on, 1 is a veto. */
static int ask(const char *hook, const char *images)
{
	char path[PATH_MAX + 16], line[128], go[64];
	struct stat fifo;

	if (!folder[0] && readlink(images, folder, sizeof(folder) - 1) < 0)
		return 1;
	if (strcmp(hook, "post-resume") == 0)
		return announce(hook) != 0;
	if (!waits_at(hook))
		return 0;
	if (strcmp(hook, "post-dump") == 0 && !streams_written())
		return 1;
	if (announce(hook) != 0)
		return 1;
	snprintf(path, sizeof(path), "%s/verdict", folder);
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

/* What starts CRIU, a script at criu.path for example, hands this on; a program that CRIU starts needs nothing of it. */
__attribute__((constructor)) static void prepare(void)
{
	if (dlsym(RTLD_DEFAULT, "criu_get_image_dir")) /* what CRIU has for its plugins */
		unsetenv("LD_PRELOAD");
}

static int end(void *status)
{
	syscall(SYS_exit_group, (int)(intptr_t)status); /* not exit(3): the memory is CRIU's */
	return 0;
}

EXPORT pid_t fork(void)
{
	static _Alignas(16) char stack[4096];
	const char *hook = getenv("CRTOOLS_SCRIPT_ACTION"), *images = getenv("CRTOOLS_IMAGE_DIR");
	pid_t (*next)(void) = (pid_t(*)(void))dlsym(RTLD_NEXT, "fork");

	if (!hook || !images)
		return next();
	return clone(end, stack + sizeof(stack), CLONE_VM | CLONE_VFORK | SIGCHLD, (void *)(intptr_t)ask(hook, images));
}
