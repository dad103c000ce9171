/* SPDX-License-Identifier: Apache-2.0 */
/* What is loaded into CRIU (criu-memory.c): its parts, and what they have in common. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define EXPORT __attribute__((visibility("default")))

#define PAGE 4096ul
#define MAX_MAPPINGS 2048
#define GATE_MS 20000

struct range {
	uint64_t start, end;
};

/* A file in the folder of the images. -> descriptor, or -1 */
int open_beside(const char *name, int flags);

/* -> 1: all of it, 0: the end before the first byte, -1: an error, or the end in its midst */
int read_all(int fd, void *into, size_t bytes);

/* In a dump, once all tasks are seized and before CRIU has changed any: waits to be told what to hide. -> false: nobody is there */
bool pass_gate(void);

/* In a dump, after the gate. @param process its folder in /proc -> what CRIU needs of its smaps; -1: it has to read that */
int known_smaps(int process);

/* In a restore, once its images are there: reads which listeners are not to be made anew. -> false: one is not to be had */
bool know_listeners(void);

/* In a restore, before it begins: takes the memory that comes. @param room most pages -> false: it was not whole */
bool take_memory(uint64_t room);

/* What CRIU has mapped to put a mapping's content there. */
struct premap {
	uintptr_t address;
	size_t length;
	int prot, flags;
};

/* In a restore, once its images are there: what has come will be moved to where CRIU maps it. */
void know_places(void);
void know_premap(const struct range *mappings, unsigned int count);

/* The last that CRIU has mapped there; NULL: nothing. */
const struct premap *premap_at(uintptr_t to);

/* Makes huge pages there, by and by; what is to be read into it waits for them. All has to be mapped. */
void ask_room(const void *place, uint64_t bytes);
void await_room(const void *place, uint64_t bytes);
/* Before anything is forked; what is not made yet is not made any more. */
void end_room(void);

/* In the restored process, for each mapping in their order, where that has been moved: what is missing there will be asked for. */
bool announce_mapping(const struct range *mapping, void *at, const struct range *later, unsigned int count);

/* Then: what is missing. -> false: nobody stands by who brings it */
bool leave_to_pager(const struct range *later, unsigned int count);
