/* SPDX-License-Identifier: Apache-2.0 */
/* The head of what is said about a process's memory between two nodes (criu-memory.c), and with a pager (pager.cc). */
#pragma once

#include <linux/userfaultfd.h>
#include <stdint.h>

enum memory_record_kind {
  kRecordPages = 2,
  kRecordZero = 3,
  kRecordMapping = 4,
  kRecordEnd = 6,
  kRecordLife = 7,
  kRecordLater = 9,  // pages that come when the process runs already
  kRecordNow = 10,   // pages that it waits for
  kRecordDone = 11,  // all have come
};

// Integers are big endian; PAGES is followed by `bytes` of content.
struct MemoryRecord {
  uint32_t kind, zero;
  uint64_t start, bytes;
};

// What a restore hands over to its pager, as the machine has integers; the first brings the userfaultfd with it.
struct HandoverRecord {
  uint64_t kind;  // kRecordMapping, kRecordLater or kRecordEnd
  uint64_t start, bytes;
  uint64_t at;  // of a mapping: where it lies now
};

// What a pager has to hear of a process: of what it does with memory that has not come. The kernel asks for CAP_SYS_PTRACE for it.
enum pager_events {
  kPagerEvents = UFFD_FEATURE_EVENT_FORK | UFFD_FEATURE_EVENT_REMAP | UFFD_FEATURE_EVENT_REMOVE | UFFD_FEATURE_EVENT_UNMAP
};
