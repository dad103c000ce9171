/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ledger <port> <journal>: a server with a library and files of its own. To each line it answers with a line:
 *   add <text>    appends it to the journal, which it has open; says how many it has added, and which version its library is
 *   first <path>  the first line of a file
 *   load <path>   loads a library; says which version that is
 *   make <path>   makes a new file
 *   gone <path>   removes one
 * Built with LIBRARY it is the library, of that version.
 */
#ifdef LIBRARY
int ledger_version(void)
{
	return LIBRARY;
}
#else
#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MAX_CLIENTS = 16 };

int ledger_version(void);

static int journal, added;

static void failed(char *answer, size_t room)
{
	snprintf(answer, room, "error %s", strerror(errno));
}

static void first_line(const char *path, char *answer, size_t room)
{
	FILE *file = fopen(path, "r");

	if (!file || !fgets(answer, room, file))
		failed(answer, room);
	if (file)
		fclose(file);
	answer[strcspn(answer, "\n")] = '\0';
}

static void load(const char *path, char *answer, size_t room)
{
	void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	int (*version)(void) = library ? (int (*)(void))dlsym(library, "ledger_version") : NULL;

	if (version)
		snprintf(answer, room, "version %d", version());
	else
		snprintf(answer, room, "error %s", dlerror());
}

static void make(const char *path, char *answer, size_t room)
{
	int fd = open(path, O_CREAT | O_EXCL | O_WRONLY, 0640);

	if (fd < 0 || write(fd, "made\n", 5) != 5)
		failed(answer, room);
	else
		snprintf(answer, room, "made");
	if (fd >= 0)
		close(fd);
}

static void answer_to(char *line, char *answer, size_t room)
{
	char *word = strchr(line, ' ');

	if (word)
		*word++ = '\0';
	else
		word = "";
	if (strcmp(line, "add") == 0) {
		dprintf(journal, "%s\n", word);
		snprintf(answer, room, "%d version %d", ++added, ledger_version());
	} else if (strcmp(line, "first") == 0) {
		first_line(word, answer, room);
	} else if (strcmp(line, "load") == 0) {
		load(word, answer, room);
	} else if (strcmp(line, "make") == 0) {
		make(word, answer, room);
	} else if (strcmp(line, "gone") == 0 && unlink(word) == 0) {
		snprintf(answer, room, "gone");
	} else {
		failed(answer, room);
	}
}

int main(int argc, char **argv)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(argc > 1 ? atoi(argv[1]) : 0) };
	struct pollfd fds[MAX_CLIENTS + 1] = { { .fd = socket(AF_INET, SOCK_STREAM, 0), .events = POLLIN } };
	int count = 1, one = 1;

	journal = open(argc > 2 ? argv[2] : "journal", O_CREAT | O_APPEND | O_WRONLY, 0640);
	setsockopt(fds[0].fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (journal < 0 || bind(fds[0].fd, (struct sockaddr *)&address, sizeof(address)) || listen(fds[0].fd, 16))
		return 1;
	for (;;) {
		poll(fds, count, -1);
		if ((fds[0].revents & POLLIN) && count <= MAX_CLIENTS) {
			fds[count].fd = accept(fds[0].fd, NULL, NULL);
			fds[count++].events = POLLIN;
		}
		for (int i = 1; i < count; i++) {
			char line[4096], answer[4096];
			ssize_t length;

			if (!(fds[i].revents & (POLLIN | POLLHUP)))
				continue;
			length = read(fds[i].fd, line, sizeof(line) - 1);
			if (length <= 0) {
				close(fds[i].fd);
				fds[i--] = fds[--count];
				continue;
			}
			line[length] = '\0';
			line[strcspn(line, "\r\n")] = '\0';
			answer_to(line, answer, sizeof(answer));
			dprintf(fds[i].fd, "%s\n", answer);
		}
	}
}
#endif
