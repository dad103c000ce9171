// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <stdint.h>

#include <chrono>
#include <unordered_set>
#include <vector>

#include "pager-memory.h"

namespace homeproxy {

// What a pager says to the source of a process, and hears from it, over a connection of the daemon's that does not block.
class PagerLine {
 public:
  explicit PagerLine(int fd = -1) : fd_(fd) {}

  int fd() const { return fd_; }
  short events() const;
  void Say(uint32_t kind, uint64_t start, uint64_t bytes);
  // Somebody waits for this page: it is asked for, with some that follow it, unless it was before.
  void Want(const PagerMemory& memory, uint64_t page);
  // Says so, when nothing else has been said for a while.
  void Live();
  // Takes what has come, and sends what there is to say. -> false: the connection is over, or says what it must not
  bool Go(PagerMemory* memory, std::vector<uint64_t>* wanted);
  // All is there: says so, and waits until that was heard or there is nobody.
  void Finish(int limit_ms);

 private:
  bool Flush();
  bool Take(PagerMemory* memory, std::vector<uint64_t>* wanted);

  int fd_;
  std::vector<uint8_t> out_, in_;
  size_t said_ = 0;
  std::chrono::steady_clock::time_point spoke_ = std::chrono::steady_clock::now();
  uint32_t kind_ = 0;               // of the record whose content comes
  uint64_t number_ = 0, left_ = 0;  // its next page, and how many are to come
  std::unordered_set<uint64_t> asked_;
};

}  // namespace homeproxy
