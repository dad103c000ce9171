// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/types.h>

#include "failure.h"

namespace homeproxy {

// Makes a userfaultfd of the memory of a process and takes its descriptor; the process keeps none. One of its threads stands
// still for some tenths of a millisecond and goes on where it was, also within a system call. -> the descriptor, or -1
int BorrowUserfaultfd(pid_t pid, Trouble* trouble);

}  // namespace homeproxy
